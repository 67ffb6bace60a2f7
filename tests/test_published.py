import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.checkpoints.class_names import COCO, DOTA
from model.checkpoints.published import PUBLISHED, PublishedModel, published_model
from model.config import CLASSIFIERS, VARIANTS
from model.manifest import valid_model_name

#: Our attribute to the name of the figure in the published tables.
COST = {"params_m": "params_m", "gflops": "gflops"}
LATENCY = {"RTX 3090": "trt_fp16_ms_rtx3090", "RTX 2080 Ti": "trt_fp16_ms_rtx2080ti"}


def row_of(model: PublishedModel) -> dict[str, Any]:
    """The model as a row of the published tables."""
    row: dict[str, Any] = {
        "task": model.task,
        "model": model.variant,
        "input": model.input_side,
        "url": model.url,
        "sha256_prefix": model.sha256_prefix,
        "pretrain": model.pretrain,
        "augmentation": model.augmentation,
        **{theirs: getattr(model, ours) for ours, theirs in COST.items()},
        **model.metrics,
    }
    if model.latency_gpu:
        row[LATENCY[model.latency_gpu]] = model.latency_ms
    if model.dataset != "COCO":
        row["dataset"] = model.dataset
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parity
def test_published__has_every_row_of_the_tables(shared_folder: Path) -> None:
    path = shared_folder / "reference" / "published_models.json"
    rows = json.loads(path.read_text())["models"]
    assert len(rows) == 25
    wanted = [{**row, "model": row["model"].lower()} for row in rows]
    assert [row_of(model) for model in PUBLISHED.values()] == wanted


def test_published__has_twenty_five_files_with_different_digests() -> None:
    assert len(PUBLISHED) == 25
    assert len({model.sha256_prefix for model in PUBLISHED.values()}) == 25
    assert len({model.url for model in PUBLISHED.values()}) == 25


@pytest.mark.parametrize("name", PUBLISHED)
def test_published__is_of_a_variant_that_there_is(name: str) -> None:
    model = PUBLISHED[name]
    assert valid_model_name(name) == model.name
    assert model.url.startswith("https://")
    assert len(model.sha256_prefix) == 8
    assert int(model.sha256_prefix, 16) > 0
    if model.task == "classify":
        assert model.variant in CLASSIFIERS
    else:
        config = VARIANTS[model.variant]
        assert config.task == model.task
        assert config.input_size == (model.input_side, model.input_side)
        # All were trained with the variant's own classes but the one for persons.
        assert len(model.classes) == (1 if name == "rtmdet-nano-person" else config.num_classes)


def test_published__finds_what_its_data_set_names() -> None:
    assert PUBLISHED["rtmdet-ins-m-coco"].classes == COCO
    assert PUBLISHED["rtmdet-r-l-coco-dota-ms"].classes == DOTA
    assert PUBLISHED["rtmdet-nano-person"].classes == ("person",)
    assert PUBLISHED["cspnext-x-imagenet"].classes == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rtmdet-tiny-coco", "rtmdet-tiny-coco"),
        ("rtmdet-tiny", "rtmdet-tiny-coco"),
        ("rtmdet-nano", "rtmdet-nano-person"),
        ("rtmdet-ins-x", "rtmdet-ins-x-coco"),
        ("rtmdet-r-l", "rtmdet-r-l-dota"),
        ("rtmdet-r-l-dota-ms", "rtmdet-r-l-dota-ms"),
        ("cspnext-s", "cspnext-s-imagenet"),
    ],
)
def test_published_model__takes_names_of_files_and_of_variants(name: str, found: str) -> None:
    assert published_model(name).name == found


@pytest.mark.parametrize("name", ["rtmdet-ins-nano", "rtmdet-huge", ""])
def test_published_model__names_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="no published weights are named") as caught:
        published_model(name)
    assert "rtmdet-tiny-coco, rtmdet-s-coco" in str(caught.value)


def test_published__needs_no_torch() -> None:
    program = (
        "import sys, model.checkpoints.published, model.checkpoints.class_names\n"
        "sys.exit('torch' in sys.modules)"
    )
    project = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=project)
