"""A measurement as people and programs read it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.postprocess import PUBLISHED_SETTINGS, SERVING_SETTINGS
from training.evaluation.average_precision import Metrics
from training.measuring.data import DataIdentity
from training.measuring.measurement import ClassCounts, Measurement
from training.measuring.opening import ModelIdentity
from training.measuring.tables import print_measurement

#: Names that a terminal's markup would swallow, or end with an error.
CLASSES = ("[bold]cat", "[/dog]", ":bird:")

MODEL = ModelIdentity(
    name="pets",
    kind="exported",
    version=2,
    variant="rtmdet-nano",
    task="detect",
    file=Path("triton_repo/pets/2/model.onnx"),
    sha256="ab" * 32,
    source=None,
)
MEASURED = Measurement(
    metrics=Metrics(
        {"box_ap": 0.5, "box_ap50": 0.75, "box_ap_small": 0.25},
        {name: {"box_ap": 0.5, "box_ap50": 0.75} for name in CLASSES[:2]},
        num_images=3,
    ),
    counts={name: ClassCounts(4, 1000 * place) for place, name in enumerate(CLASSES)},
    model=MODEL,
    runtime="OpenVINO CPU bf16",
    input_size=(416, 640),
    postprocess="published",
    values=PUBLISHED_SETTINGS["detect"],
    data=DataIdentity(Path("[red]data"), "val", "coco"),
    patches=None,
    num_instances=12,
    remarks=(),
    unreadable=(),
    date="2026-11-20T17:00:00+00:00",
    seconds=1.234,
)


def test_print_measurement__takes_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_measurement(MEASURED)
    shown = capsys.readouterr().out
    for name in (*CLASSES, "[red]data"):
        assert name in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["AP50", "0.7500"] in rows
    assert ["AP,", "small", "0.2500"] in rows
    assert ["[/dog]", "4", "1,000", "0.5000", "0.7500", "-"] in rows


def test_measurement__as_json_says_which_settings() -> None:
    published = MEASURED.as_json()
    served = replace(MEASURED, postprocess="serving", values=SERVING_SETTINGS["detect"]).as_json()
    assert json.loads(json.dumps(published)) == published
    assert (published["settings"]["name"], served["settings"]["name"]) == ("published", "serving")
    assert published["settings"]["candidates_per_level"] == 30000
    # The graph has selected, whatever the setting says.
    assert "candidates_per_level" not in served["settings"]
    assert published["per_class"][":bird:"] == {"instances": 4, "detections": 2000}


def test_measurement__as_evaluation_is_what_a_manifest_says() -> None:
    recorded = replace(MEASURED, patches=(1024, 200)).as_evaluation()
    assert (recorded.dataset, recorded.split, recorded.settings) == (
        "[red]data",
        "val",
        "published",
    )
    assert (recorded.num_images, recorded.num_instances) == (3, 12)
    assert recorded.patches == (1024, 200)
    assert recorded.date == "2026-11-20"
