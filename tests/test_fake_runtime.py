"""The fake runtime as users meet it: started by its setting, for every task, failing on demand."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from model.config import Task
from model.manifest import TASK_OUTPUTS
from model.postprocess import SERVING_SETTINGS, Candidates, Detections, postprocess
from model.preprocess import letterbox_of
from service.http_api.app import create_app
from service.http_api.schemas import DetectSchema
from service.runtime.fake import FakeModel, FakeRuntime, PlannedFakeRuntime
from service.runtime.fake_outputs import ANGLE_RAD
from service.runtime.fake_plan import FakePlan, parse_fake_plan
from service.settings import Settings, SettingsError
from service.wiring import build_detector
from tests.repositories import CLASSES, write_model
from tests.servers import running_server

TASKS: tuple[Task, ...] = ("detect", "instance", "rotated")
SIZE = 256
POISON = (255, 0, 255)


def picture(x: int = 40, y: int = 60, side: int = 80) -> NDArray[np.uint8]:
    image = np.full((SIZE, SIZE, 3), 128, np.uint8)
    image[0, 0] = x, y, side - 1
    return image


def planned(text: str, task: Task = "detect") -> PlannedFakeRuntime:
    plan = parse_fake_plan(text)
    return PlannedFakeRuntime(plan, FakeModel(task, len(CLASSES), plan.detections))


def detections(runtime: FakeRuntime, image: NDArray[np.uint8], task: Task) -> Detections:
    outputs: dict[str, Any] = {name: rows[0] for name, rows in runtime.infer(image[None]).items()}
    geometry = letterbox_of(SIZE, SIZE, SIZE, SIZE)
    return postprocess(
        Candidates(**outputs), geometry, SERVING_SETTINGS[task], with_masks=task == "instance"
    )


@pytest.mark.parametrize("task", TASKS)
def test_fake_runtime__gives_what_models_of_the_task_give(task: Task):
    runtime = planned("detections=5", task)
    outputs = runtime.infer(np.stack([picture(), picture(7), picture(9)]))

    assert set(outputs) == set(runtime.output_names) == TASK_OUTPUTS[task]
    shapes = {name: values.shape for name, values in outputs.items()}
    assert shapes["boxes"] == (3, 5, 5 if task == "rotated" else 4)
    assert shapes["scores"] == shapes["labels"] == (3, 5)
    assert outputs["labels"].dtype == np.int32
    assert {v.dtype for name, v in outputs.items() if name != "labels"} == {np.dtype(np.float32)}
    if task == "instance":
        assert shapes["kernels"] == (3, 5, 169)
        assert shapes["priors"] == (3, 5, 3)
        assert shapes["mask_features"] == (3, 8, SIZE // 8, SIZE // 8)


@pytest.mark.parametrize("task", TASKS)
def test_fake_runtime__the_first_detection_is_written_in_the_picture(task: Task):
    found = detections(planned("", task), picture(40, 60, 80), task)

    assert found.labels.tolist() == [0]
    assert found.scores.tolist() == pytest.approx([0.9])
    if task == "rotated":
        assert found.rotated_boxes is not None
        assert found.rotated_boxes[0].tolist() == pytest.approx([80, 100, 80, 40, ANGLE_RAD])
    else:
        assert found.boxes_xyxy.tolist() == [[40, 60, 120, 140]]


def test_fake_runtime__its_mask_is_a_rhombus_in_the_box():
    found = detections(planned("", "instance"), picture(40, 60, 80), "instance")
    assert found.masks is not None
    mask = found.masks[0]
    crop = mask.crop

    assert (mask.x, mask.y) == pytest.approx((40, 60), abs=4)
    assert np.count_nonzero(crop) == pytest.approx(80 * 80 / 2, rel=0.1)
    height, width = crop.shape
    assert crop[height // 2, width // 2]
    assert not crop[0, 0]
    assert not crop[-1, -1]


@pytest.mark.parametrize("task", TASKS)
def test_fake_runtime__further_detections_have_all_classes_and_other_places(task: Task):
    found = detections(planned("detections=7", task), picture(side=20), task)

    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert (np.diff(found.scores) < 0).all()
    assert len({tuple(box) for box in found.boxes_xyxy.tolist()}) == 7


def test_fake_runtime__every_nth_call_fails():
    runtime = planned("fail_every=3")
    for _ in range(2):
        runtime.infer(picture()[None])
        runtime.infer(picture()[None])
        with pytest.raises(RuntimeError, match="as planned"):
            runtime.infer(picture()[None])


def test_fake_runtime__a_poisonous_picture_fails_its_batch_and_no_other():
    runtime = planned("fail_pixel=ff00ff")
    poisonous = np.full((SIZE, SIZE, 3), POISON, np.uint8)

    with pytest.raises(RuntimeError, match="first pixel"):
        runtime.infer(np.stack([picture(), poisonous]))
    runtime.infer(picture()[None])


def test_fake_runtime__a_call_hangs_until_the_runtime_is_closed():
    runtime = planned("hang_every=1")
    ended = threading.Event()

    def call() -> None:
        with pytest.raises(RuntimeError, match="hung, as planned"):
            runtime.infer(picture()[None])
        ended.set()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert not ended.wait(0.05)
    runtime.close()
    assert ended.wait(10)
    thread.join()


def test_fake_runtime__every_nth_call_gives_nan():
    runtime = planned("nan_every=2", "instance")

    assert np.isfinite(runtime.infer(picture()[None])["scores"]).all()
    assert np.isnan(runtime.infer(picture()[None])["scores"]).all()


def test_fake_runtime__every_nth_call_gives_a_row_too_few():
    runtime = planned("misshape_every=2")
    batch = np.stack([picture(), picture()])

    assert [len(runtime.infer(batch)["boxes"]) for _ in range(4)] == [2, 1, 2, 1]


def slept(monkeypatch: pytest.MonkeyPatch, plan: str, *batch_sizes: int) -> list[float]:
    """What calls with so many pictures sleep, in seconds."""
    naps: list[float] = []
    monkeypatch.setattr("service.runtime.fake.time.sleep", naps.append)
    runtime = planned(plan)
    sums = []
    for size in batch_sizes:
        naps.clear()
        runtime.infer(np.stack([picture()] * size))
        sums.append(sum(naps))
    return sums


def test_fake_runtime__takes_time_by_call_and_by_picture(monkeypatch: pytest.MonkeyPatch):
    plan = "call_ms=2,image_ms=0.5"

    assert slept(monkeypatch, plan, 1, 4) == pytest.approx([0.0025, 0.004])


def test_fake_runtime__jitter_is_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch):
    first = slept(monkeypatch, "call_ms=2,jitter=0.5,seed=1", *[1] * 20)
    again = slept(monkeypatch, "call_ms=2,jitter=0.5,seed=1", *[1] * 20)
    other = slept(monkeypatch, "call_ms=2,jitter=0.5,seed=2", *[1] * 20)

    assert first == again != other
    assert len(set(first)) == 20
    assert all(0.002 <= seconds <= 0.003 for seconds in first)


def test_parse_fake_plan__every_name():
    text = (
        "call_ms=0.5, image_ms=0.4, jitter=0.05, seed=7, max_batch=16, concurrency=2, detections=9,"
        "fail_every=100, hang_every=5000, nan_every=6, misshape_every=7, fail_pixel=Ff8000"
    )

    assert parse_fake_plan(text) == FakePlan(
        call_ms=0.5, image_ms=0.4, jitter=0.05, seed=7, max_batch=16, concurrency=2, detections=9,
        fail_every=100, hang_every=5000, nan_every=6, misshape_every=7, fail_pixel=(0, 128, 255),
    )  # fmt: skip
    assert parse_fake_plan("") == FakePlan()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("call_ms", "'call_ms': write name=value"),
        ("cal_ms=1", "did you mean 'call_ms'"),
        ("window=1", "there are call_ms, image_ms"),
        ("call_ms=fast", "'call_ms=fast': expected a number that is not negative"),
        ("call_ms=-1", "not negative"),
        ("call_ms=nan", "not negative"),
        ("image_ms=inf", "not negative"),
        ("jitter=1.5", "a share from 0 to 1"),
        ("fail_every=0", "expected a whole number, at least 1"),
        ("fail_every=2.5", "expected a whole number, at least 1"),
        ("max_batch=²", "expected a whole number, at least 1"),
        ("fail_pixel=255", "expected a colour as rrggbb"),
        ("seed=1,seed=2", "seed is there already"),
    ],
)
def test_parse_fake_plan__says_what_is_wrong(text: str, says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_fake_plan(text)


def test_fake_setting__that_is_wrong_stops_the_start(tmp_path: Path):
    write_model(tmp_path, "boxes")
    settings = Settings(model_repository=tmp_path, runtime="fake", fake="fail_evry=3")

    with pytest.raises(SettingsError, match=r"^RTMDET_FAKE: 'fail_evry=3': did you mean"):
        build_detector(settings)


def test_fake_setting__for_another_runtime_is_told(caplog: pytest.LogCaptureFixture):
    from service.wiring import choose_runtime

    choose_runtime(Settings(runtime="openvino", fake="call_ms=1"))

    assert "RTMDET_FAKE has no effect: the runtime is openvino" in caplog.text


@contextmanager
def serving(repository: Path, fake: str) -> Iterator[httpx.Client]:
    for task in TASKS:
        write_model(repository, task, task=task, input_size=(SIZE, SIZE))
    settings = Settings(model_repository=repository, runtime="fake", fake=fake)
    with running_server(create_app(build_detector(settings), max_buffered_bytes=10**8)) as client:
        yield client


def post(client: httpx.Client, image: NDArray[np.uint8], **options: str) -> httpx.Response:
    content = cv2.imencode(".png", image)[1].tobytes()
    return client.post(
        "/detect", content=content, params=options, headers={"Content-Type": "image/png"}
    )


def test_server__answers_for_every_task(tmp_path: Path):
    with serving(tmp_path, "detections=6") as client:
        bodies = {
            task: post(client, picture(side=60), model=task, mask_format="rle").json()
            for task in TASKS
        }

    for task, body in bodies.items():
        DetectSchema.model_validate(body, strict=True)
        found = body["detections"]
        assert [each["label"] for each in found] == [CLASSES[index % 3] for index in range(6)]
        assert all(("mask" in each) == (task == "instance") for each in found)
        assert all(("rotated_box" in each) == (task == "rotated") for each in found)
    run_lengths = bodies["instance"]["detections"][0]["mask"]
    assert run_lengths["size"] == [SIZE, SIZE]
    area = coco.area({"size": [SIZE, SIZE], "counts": run_lengths["counts"].encode()})
    assert area == pytest.approx(60 * 60 / 2, rel=0.1)


def test_server__fails_where_it_is_planned_and_nowhere_else(tmp_path: Path):
    with serving(tmp_path, "fail_pixel=ff00ff,max_batch=4") as client:
        poisonous = np.full((SIZE, SIZE, 3), POISON, np.uint8)
        codes = [
            post(client, image, model="detect").status_code
            for image in (picture(), poisonous, picture())
        ]

    assert codes == [200, 500, 200]


def test_server__warms_up_and_is_ready_whatever_is_planned_for_requests(tmp_path: Path):
    with serving(tmp_path, "fail_every=1,nan_every=1,misshape_every=1") as client:
        assert client.get("/readyz").status_code == 200
        assert post(client, picture(), model="detect").status_code == 500
        assert client.get("/readyz").status_code == 200


def test_server__outputs_of_a_wrong_shape_fail_their_request_alone(tmp_path: Path):
    with serving(tmp_path, "misshape_every=2") as client:
        codes = [post(client, picture(), model="detect").status_code for _ in range(4)]

    assert codes == [200, 500, 200, 500]
