"""Which arithmetic a model runs in: by evaluations on record, or by a trial."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.manifest import Evaluation
from model.repository import ModelRepository, RepositoryModel
from service.runtime.openvino_session import CALLS_AHEAD, OpenVINOSession
from service.runtime.precision import trial_picture, verdict_by_picture, verdict_on_record
from tests.conftest import PROJECT

MODELS = ("rtmdet-nano-shapes", "rtmdet-ins-nano-shapes", "rtmdet-r-nano-shapes")

Arrays = dict[str, NDArray[Any]]


def evaluation(precision: str, box_ap: float, **other: Any) -> Evaluation:
    values = {
        "dataset": "unseen",
        "split": "val",
        "num_images": 500,
        "num_instances": 3340,
        "settings": "published",
        "runtime": f"OpenVINO 2026.4.1 CPU {precision}",
        "date": "2026-11-29",
        "metrics": {"box_ap": box_ap, "box_ap_small": 0.1},
    }
    return Evaluation(**(values | other))


def test_verdict_on_record__a_small_loss_is_accepted():
    record = [evaluation("f32", 0.5), evaluation("bf16", 0.496)]
    verdict = verdict_on_record(record, "OpenVINO", "bf16")

    assert verdict is not None
    assert verdict.accepted
    assert verdict.reason == "bf16: box_ap -0.0040 against f32 in the evaluations on record"


def test_verdict_on_record__a_larger_loss_is_not():
    record = [evaluation("bf16", 0.494), evaluation("f32", 0.5)]
    verdict = verdict_on_record(record, "OpenVINO", "bf16")

    assert verdict is not None
    assert not verdict.accepted
    assert verdict.reason.startswith("f32: bf16 has box_ap -0.0060 against f32")


def test_verdict_on_record__the_worst_metric_counts():
    record = [
        evaluation("f32", 0.5, metrics={"box_ap": 0.5, "mask_ap": 0.4}),
        evaluation("bf16", 0.5, metrics={"box_ap": 0.6, "mask_ap": 0.3}),
    ]
    verdict = verdict_on_record(record, "OpenVINO", "bf16")

    assert verdict is not None
    assert not verdict.accepted
    assert "mask_ap -0.1000" in verdict.reason


@pytest.mark.parametrize(
    "record",
    [
        [],
        [evaluation("bf16", 0.5)],
        [evaluation("f32", 0.5)],
        [evaluation("f32", 0.5), evaluation("bf16", 0.5, dataset="other")],
        [evaluation("f32", 0.5), evaluation("bf16", 0.5, settings="serving")],
        [evaluation("f32", 0.5), evaluation("bf16", 0.5, patches=(64, 16))],
        [evaluation("f32", 0.5), evaluation("bf16", 0.5, runtime="torch 2.13 CPU bf16")],
    ],
)
def test_verdict_on_record__what_cannot_be_compared_says_nothing(record: list[Evaluation]):
    assert verdict_on_record(record, "OpenVINO", "bf16") is None


def stored(name: str) -> RepositoryModel:
    return ModelRepository(PROJECT / "triton_repo").open(name)


def session(name: str, **options: Any) -> OpenVINOSession:
    model = stored(name)
    return OpenVINOSession(
        model.graph_path, input_size=model.manifest.input_size, num_threads=1, **options
    )


@cache
def seen(name: str) -> Arrays:
    """What the model sees in the picture of the trial, in float32."""
    picture = trial_picture(*stored(name).manifest.input_size)
    return dict(session(name, precision="f32").infer(picture))


def rounded(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """With so many bits of mantissa."""
    mantissas, exponents = np.frexp(values)
    return np.ldexp(np.round(mantissas * 2**bits) / 2**bits, exponents).astype(values.dtype)


def changed(outputs: Mapping[str, NDArray[Any]], **by: Callable[[NDArray], NDArray]) -> Arrays:
    return {name: by.get(name, np.copy)(values) for name, values in outputs.items()}


@pytest.mark.parametrize("name", MODELS)
def test_verdict_by_picture__same_outputs(name: str):
    verdict = verdict_by_picture(seen(name), seen(name), "bf16")

    assert verdict.accepted
    assert verdict.reason == "bf16: 50 of 50 candidates of the trial picture as in f32"


@pytest.mark.parametrize("name", MODELS)
def test_verdict_by_picture__outputs_in_low_precision_are_accepted(name: str):
    names = [each for each in seen(name) if each != "labels"]
    low = changed(seen(name), **{each: lambda values: rounded(values, 8) for each in names})

    assert verdict_by_picture(seen(name), low, "bf16").accepted


@pytest.mark.parametrize(
    ("name", "output", "change"),
    [
        ("rtmdet-nano-shapes", "scores", lambda scores: scores * 0.5),
        ("rtmdet-nano-shapes", "boxes", lambda boxes: boxes + 40),
        ("rtmdet-nano-shapes", "labels", lambda labels: (labels + 1) % 8),
        ("rtmdet-r-nano-shapes", "boxes", lambda boxes: boxes + np.float32([0, 0, 0, 0, 1])),
        ("rtmdet-ins-nano-shapes", "kernels", lambda kernels: kernels[:, ::-1]),
        ("rtmdet-ins-nano-shapes", "mask_features", lambda features: features * 0.5),
    ],
)
def test_verdict_by_picture__outputs_that_are_others_are_not_accepted(
    name: str, output: str, change: Callable[[NDArray], NDArray]
):
    verdict = verdict_by_picture(seen(name), changed(seen(name), **{output: change}), "bf16")

    assert not verdict.accepted
    assert verdict.reason.startswith("f32: bf16 has ")


@pytest.mark.parametrize("nonsense", [np.nan, np.inf])
def test_verdict_by_picture__numbers_out_of_range_are_not_accepted(nonsense: float):
    def last_is_nonsense(scores: NDArray) -> NDArray:
        return np.where(np.arange(scores.shape[1]) < scores.shape[1] - 1, scores, nonsense)

    outputs = seen(MODELS[0])
    verdict = verdict_by_picture(outputs, changed(outputs, scores=last_is_nonsense), "f16")

    assert not verdict.accepted
    assert verdict.reason == "f32: f16 goes out of its range"


def test_verdict_by_picture__half_a_turn_is_no_turn():
    outputs = seen("rtmdet-r-nano-shapes")
    turned = changed(outputs, boxes=lambda boxes: boxes + np.float32([0, 0, 0, 0, np.pi]))

    assert verdict_by_picture(outputs, turned, "bf16").accepted


def test_verdict_by_picture__of_a_model_that_sees_nothing_there():
    outputs = changed(seen(MODELS[0]), scores=lambda scores: scores * 0.01)
    verdict = verdict_by_picture(outputs, outputs, "bf16")

    assert verdict.accepted
    assert "shows the model nothing" in verdict.reason


def test_trial_picture__is_the_same_every_time():
    first = trial_picture(64, 96)

    assert first.shape == (1, 64, 96, 3)
    np.testing.assert_array_equal(first, trial_picture(64, 96))


def fast_precision() -> str:
    """What OpenVINO computes in on this processor if it is left alone, or a skip."""
    import openvino

    fast = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    if fast == "f32":
        pytest.skip("this processor has nothing faster than f32")
    return fast


@pytest.mark.parametrize("name", MODELS)
def test_session__auto_follows_the_evaluations_on_record(name: str):
    fast = fast_precision()
    evaluations = stored(name).manifest.evaluations
    opened = session(name, evaluations=evaluations, reason="as set")

    assert opened.precision == fast
    assert opened.reason.startswith(f"as set; {fast}: ")
    assert opened.reason.endswith("in the evaluations on record")


def test_session__auto_is_exact_where_the_record_speaks_against_the_fast():
    fast = fast_precision()
    evaluations = (evaluation("f32", 0.5), evaluation(fast, 0.4))
    opened = session(MODELS[0], evaluations=evaluations)

    assert opened.precision == "f32"
    assert f"{fast} has box_ap -0.1000" in opened.reason


def test_session__auto_without_a_record_tries():
    fast = fast_precision()
    opened = session(MODELS[0])

    assert opened.precision == fast
    assert re.fullmatch(
        rf"{fast}: \d+ of \d+ candidates of the trial picture as in f32", opened.reason
    )
    np.testing.assert_allclose(
        opened.infer(trial_picture(448, 448))["scores"], seen(MODELS[0])["scores"], atol=0.05
    )


def test_session__auto_is_exact_where_the_trial_speaks_against_the_fast(
    monkeypatch: pytest.MonkeyPatch,
):
    fast_precision()
    verdict = verdict_by_picture(seen(MODELS[0]), seen(MODELS[0]), "bf16")
    refused = replace(verdict, accepted=False)
    monkeypatch.setattr("service.runtime.openvino_session.verdict_by_picture", lambda *_: refused)
    opened = session(MODELS[0])

    assert opened.precision == "f32"
    np.testing.assert_array_equal(
        opened.infer(trial_picture(448, 448))["scores"], seen(MODELS[0])["scores"]
    )


def test_session__precision_that_is_set_is_not_questioned():
    opened = session(MODELS[0], precision="f32")

    assert (opened.precision, opened.reason) == ("f32", "f32: as set")


def test_session__evaluation_opens_dense_tensors_in_the_precision_that_serves():
    fast = fast_precision()
    opened = session(MODELS[0], outputs=("dense_logits", "dense_boxes"))

    assert opened.precision == fast
    assert set(opened.output_names) == {"dense_logits", "dense_boxes"}


def test_session__on_a_share_of_a_machine_takes_its_share_and_is_not_tied_to_cores(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("service.runtime.openvino_session.num_usable_cores", lambda: 1)
    monkeypatch.setattr("service.runtime.openvino_session.is_quota_limited", lambda: True)
    model = stored(MODELS[0])
    opened = OpenVINOSession(
        model.graph_path, input_size=model.manifest.input_size, precision="f32"
    )

    assert opened._together.get_property("INFERENCE_NUM_THREADS") == 1
    assert opened.concurrency == 1 + CALLS_AHEAD
    assert not opened._together.get_property("ENABLE_CPU_PINNING")


def test_close__of_the_last_session_leaves_a_process_that_bears_signals():
    """OpenVINO unloaded its plugin then, and the next signal was a segmentation fault."""
    model = stored(MODELS[0])
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from service.runtime.openvino_session import OpenVINOSession\n"
        f"session = OpenVINOSession(Path({str(model.graph_path)!r}),"
        f" input_size={model.manifest.input_size!r}, precision='f32')\n"
        "session.close()\n"
        "del session\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('heard'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
