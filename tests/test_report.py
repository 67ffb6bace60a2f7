"""Reports: whole, harmless and readable files, whatever was evaluated."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from training.evaluation.average_precision import Metrics
from training.evaluation.comparison import compare
from training.evaluation.evaluator import Evaluated
from training.evaluation.instances import Found, Truth
from training.report.charts import column_chart
from training.report.classification_report import (
    ClassifierReportInputs,
    write_classifier_report,
)
from training.report.detection_report import MAX_PICTURES, write_report
from training.report.heat_map import MAX_CLASSES, heat_map, largest_confusions
from training.report.inputs import ReportInputs
from training.report.pictures import MAX_PICTURE_BYTES
from training.report.svg import Axis
from training.report.training_charts import training_charts
from training.report.views import View

SECTIONS = {"figures", "mistakes", "classes", "curves", "confusion", "threshold", "worst"}
HOSTILE = ("<script>alert(1)</script>", "\"'&<b onclick=x>", "{{ 7 * 7 }}", "面 \ud800")


@dataclass
class Pictures:
    """Image files as a data set names them."""

    paths: Sequence[Path]
    size: tuple[int, int]
    are_upright: bool = True

    def image_path(self, position: int) -> Path:
        return self.paths[position]

    def image_size(self, position: int) -> tuple[int, int]:
        return self.size


def pictures(folder: Path, num_images: int, size: tuple[int, int] = (60, 80)) -> Pictures:
    paths = [folder / f"{place:03}.png" for place in range(num_images)]
    rng = np.random.default_rng(0)
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))
    return Pictures(paths, size)


def an_evaluation(num_images: int, num_classes: int, *, width: int = 4, found: bool = True) -> Any:
    """In every image an instance, of the classes in turn, a detection with it and one beside."""
    places = np.arange(num_images)
    box = [40.0, 30, 20, 10, 0.3] if width == 5 else [10.0, 10, 40, 30]
    far = [70.0, 50, 10, 8, 0.3] if width == 5 else [50.0, 40, 78, 58]
    truth = Truth(
        image_sizes=np.full((num_images, 2), (60, 80)),
        images=places,
        labels=places % num_classes,
        boxes=np.array([box] * num_images, np.float32),
        areas=np.full(num_images, 600.0),
        ignored=np.zeros(num_images, np.bool_),
    )
    twice = np.repeat(places, 2)
    detections = Found(
        images=twice,
        labels=twice % num_classes,
        scores=np.tile(np.array([0.9, 0.6], np.float32), num_images),
        boxes=np.array([box, far] * num_images, np.float32),
    )
    if not found:
        detections = Found(*(each[:0] for each in list(vars(detections).values())[:4]))
    values = {"rotated_ap50" if width == 5 else "box_ap": 0.4141}
    comparison = compare("rotated" if width == 5 else "detect", truth, detections, num_classes)
    metrics = Metrics(values, {}, num_images)
    return Evaluated(metrics, comparison, truth, detections, range(num_images))


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and text outside of scripts."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> set[str | None]:
        return {each["id"] for each in self.all("section")}


def report(tmp_path: Path, evaluated: Any, classes: Sequence[str], **more: Any) -> Page:
    images = more.pop("images", None) or pictures(tmp_path, len(evaluated.positions))
    path = tmp_path / "report.html"
    more.setdefault("title", "Evaluation")
    write_report(path, ReportInputs(evaluated=evaluated, images=images, classes=classes, **more))
    return Page(path)


def test_report__has_every_section_and_the_facts(tmp_path: Path) -> None:
    facts = {"Runtime": "torch CPU float32", "Data": "val <1>"}
    page = report(tmp_path, an_evaluation(3, 2), ("cat", "dog"), facts=facts)
    assert page.sections == SECTIONS
    assert "torch CPU float32" in page.text
    assert "val <1>" in page.text
    assert "0.4141" in page.text
    # Three images with a false detection each: the one worth keeping is the other.
    assert "cat 0.60" not in page.text
    assert "No image has a mistake" in page.text


def test_report__shows_the_worst_images_at_the_threshold_asked_for(tmp_path: Path) -> None:
    page = report(tmp_path, an_evaluation(3, 2), ("cat", "dog"), score_threshold=0.5)
    assert "cat 0.60: nothing of that kind is there" in page.text
    shown = [str(each["src"]) for each in page.all("img")]
    assert len(shown) == 6
    for data in shown:
        assert data.startswith("data:image/jpeg;base64,")
        stored = np.frombuffer(base64.b64decode(data.partition(",")[2]), np.uint8)
        assert np.shape(cv2.imdecode(stored, cv2.IMREAD_COLOR)) == (180, 240, 3)


def test_report__refers_to_nothing_outside(tmp_path: Path) -> None:
    page = report(tmp_path, an_evaluation(2, 2), ("cat", "dog"), score_threshold=0.0)
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                assert str(value).startswith(("data:", "#")), (name, value)
    source = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", source)
    (policy,) = [each for each in page.all("meta") if "http-equiv" in each]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_report__hostile_names_are_text(tmp_path: Path) -> None:
    images = pictures(tmp_path, 8)
    odd = tmp_path / "<img src=x onerror=alert(1)>.png"
    images.paths[0].rename(odd)
    images.paths = [odd, *images.paths[1:]]
    page = report(
        tmp_path,
        an_evaluation(8, 4),
        HOSTILE,
        images=images,
        score_threshold=0.0,
        title=HOSTILE[0],
        facts={HOSTILE[0]: HOSTILE[1]},
    )
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 16
    assert not any(name.startswith("on") for _, each in page.elements for name in each)
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_report__nothing_found(tmp_path: Path) -> None:
    page = report(tmp_path, an_evaluation(2, 2, found=False), ("cat", "dog"))
    assert page.sections == SECTIONS
    assert "dog missed" in page.text


def test_report__one_image_and_a_class_without_instances(tmp_path: Path) -> None:
    page = report(tmp_path, an_evaluation(1, 1), ("cat", "unicorn"), score_threshold=0.0)
    assert "unicorn" in page.text
    assert len(page.all("article")) == 1


def test_report__rotated_boxes(tmp_path: Path) -> None:
    page = report(tmp_path, an_evaluation(2, 2, width=5), ("ship", "plane"), score_threshold=0.5)
    assert "rotated: precision over recall" in page.text
    assert "plane 0.60: nothing of that kind is there" in page.text


def test_report__eighty_classes_and_many_images_stay_within_bounds(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(80)]
    page = report(tmp_path, an_evaluation(160, 80), classes, score_threshold=0.0)
    assert len(page.all("article")) == MAX_PICTURES
    assert max(len(str(each["src"])) for each in page.all("img")) < MAX_PICTURE_BYTES * 4 / 3 + 50
    assert "The 6 worst classes by name" in page.text
    assert (tmp_path / "report.html").stat().st_size < 8_000_000


def test_report__an_image_that_is_gone_is_told_and_not_the_end(tmp_path: Path) -> None:
    images = pictures(tmp_path, 2)
    images.paths[1].unlink()
    page = report(tmp_path, an_evaluation(2, 2), ("cat", "dog"), images=images, score_threshold=0.0)
    assert "The image could not be read." in page.text
    assert len(page.all("img")) == 2


def test_report__masks_are_outlined(tmp_path: Path) -> None:
    evaluated = an_evaluation(1, 1)
    disc: Any = cv2.circle(np.zeros((60, 80), np.uint8), (25, 20), 12, 1, -1)
    counts = coco_mask.encode(np.asfortranarray(disc))["counts"]
    truth = replace(evaluated.truth, masks=(counts,))
    view = View.of((60, 80), np.zeros((0, 2)))
    (outline,) = view.outlines(truth, 0)
    distances = np.hypot(*(outline / view.scale + 0.5 - (25.5, 20.5)).T)
    assert distances.min() > 11
    assert distances.max() < 13.5
    found = replace(evaluated.found, masks=(counts, counts))
    comparison = compare("instance", truth, found, 1)
    page = report(
        tmp_path,
        replace(evaluated, comparison=comparison, truth=truth, found=found),
        ("cat",),
        score_threshold=0.0,
    )
    assert "mask: precision over recall" in page.text
    assert "cat 0.60: found already" in page.text


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_report__refuses_a_threshold_that_is_no_score(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match="scores lie between 0 and 1"):
        report(tmp_path, an_evaluation(1, 1), ("cat",), score_threshold=threshold)


def test_report__leaves_nothing_half_written(tmp_path: Path) -> None:
    images = pictures(tmp_path, 1)
    inputs = ReportInputs(
        evaluated=an_evaluation(1, 1), images=images, classes=("cat",), title="Evaluation"
    )
    with pytest.raises(ValueError, match="there is no folder"):
        write_report(tmp_path / "missing" / "report.html", inputs)
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_report(taken, inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.png", "taken"]


def test_report__shows_the_training_of_a_run(tmp_path: Path) -> None:
    page = report(
        tmp_path, an_evaluation(1, 1), ("cat",), run_folder=a_run(tmp_path), score_threshold=0.0
    )
    assert page.sections == {*SECTIONS, "training"}
    assert "Learning rate" in page.text


def a_run(folder: Path) -> Path:
    records: list[dict[str, Any]] = [{"kind": "start", "time": 0.0, "step": 0}]
    for step in range(10, 41, 10):
        records.append(
            {"kind": "step", "time": 1.0, "step": step, "epoch": 0, "lr": 0.1, "loss": 9.0 / step}
        )
        if step % 20 == 0:
            metrics = {"box_ap": step / 100, "box_ap_small": None}
            record = {"kind": "evaluation", "time": 1.0, "step": step, "epoch": step // 20}
            records.append(record | {"metrics": metrics, "is_best": True})
    lines = [json.dumps(record) for record in records]
    (folder / "progress.jsonl").write_text("\n".join([*lines, '{"kind": "st']))
    return folder


def test_training_charts__count_epochs(tmp_path: Path) -> None:
    charts = training_charts(a_run(tmp_path))
    for name, chart in zip(("Losses", "Learning rate", "Metrics"), charts, strict=True):
        assert f"<figcaption>{name}" in chart
    assert "box_ap: 0.4 at epoch 2" in charts[2]
    assert "box_ap_small" not in charts[2]


def test_training_charts__mark_where_a_stage_follows_another(tmp_path: Path) -> None:
    records = [
        {
            "kind": kind,
            "time": 0.0,
            "step": step,
            "epoch": 0,
            "lr": 0.1,
            "loss": 1.0,
            "stage": stage,
        }
        for kind, step, stage in (
            ("stage", 0, "mixing"),
            ("step", 10, "mixing"),
            ("stage", 10, "mixing"),
            ("stage", 15, "finishing"),
            ("step", 20, "finishing"),
        )
    ]
    (tmp_path / "progress.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    losses, _ = training_charts(tmp_path)
    assert losses.count('class="mark"') == 1
    assert ">finishing</text>" in losses


def test_training_charts__refuse_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no records of a run"):
        training_charts(tmp_path)
    (tmp_path / "progress.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="holds no records of a run"):
        training_charts(tmp_path)


def test_heat_map__keeps_the_classes_with_the_most_mistakes() -> None:
    names = [f"n{number}" for number in range(MAX_CLASSES + 40)]
    matrix = np.diag(np.full(len(names) + 1, 9))
    matrix[100, 101] = 3
    drawn = heat_map(matrix, names, background=("nothing there", "missed"))
    assert "n100 → n101: 3 (25.0% of the row)" in drawn
    assert f"{MAX_CLASSES} classes with the most mistakes" in drawn


def test_largest_confusions__are_ranked_without_what_is_right() -> None:
    matrix = np.array([[50, 2, 9], [4, 60, 9], [9, 9, 0]])
    found = largest_confusions(matrix, ("cat", "dog"), np.array([61, 73]), 5)
    assert [tuple(each) for each in found] == [("dog", "cat", 4, 73), ("cat", "dog", 2, 61)]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 9.3], [0, 2, 4, 6, 8, 10]),
        ([5, 5], [5, 6, 7, 8, 9, 10]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_axis__has_round_ticks(values: list[float], ticks: list[float]) -> None:
    assert Axis.around("loss", [values]).ticks() == pytest.approx(ticks)


def test_column_chart__cuts_off_what_is_too_high() -> None:
    counts = np.array([900, 3, 0])
    drawn = column_chart("t", Axis("score", 0, 1), Axis("n", 0, 10), [("right", "right", counts)])
    assert drawn.count("<rect") == 2
    assert drawn.count("cut-off") == 1
    assert "more than the chart shows" in drawn


def test_view__of_a_large_image_is_where_most_mistakes_are() -> None:
    places = np.array([[100.0, 100], [3000, 2000], [3100, 2100], [3050, 2050]])
    view = View.of((4000, 5000), places)
    inside = (places >= (view.x, view.y)) & (places < (view.x + view.width, view.y + view.height))
    assert inside.all(axis=1).tolist() == [False, True, True, True]
    assert view.holds(places).tolist() == [False, True, True, True]
    assert View.of((4000, 5000), places[:0]).is_whole
    assert View.of((900, 1200), places).is_whole


def test_report__of_a_large_image_remarks_are_on_the_part_that_is_shown(tmp_path: Path) -> None:
    evaluated = an_evaluation(1, 1)
    # Two false detections side by side, far from the one instance, which is missed.
    boxes = np.array([[1500.0, 20, 1540, 60], [1550, 20, 1590, 60]], np.float32)
    found = replace(evaluated.found, boxes=boxes)
    truth = replace(evaluated.truth, image_sizes=np.array([[60, 1600]]))
    page = report(
        tmp_path,
        replace(evaluated, truth=truth, found=found),
        ("cat",),
        images=pictures(tmp_path, 1, (60, 1600)),
        score_threshold=0.5,
    )
    assert "1 of 1 missed, 2 detections wrong; shown is x 640-1600, y 0-60" in page.text
    assert "cat 0.90: nothing of that kind is there" in page.text
    assert "cat missed" not in page.text
    assert "and 1 more" in page.text


def a_classification(folder: Path, num_images: int, classes: Sequence[str]) -> Any:
    """Every third image is taken for the next class."""
    places = np.arange(num_images)
    labels = places % len(classes)
    guesses = (labels[:, None] + np.arange(min(5, len(classes)))) % len(classes)
    guesses[::3] = (guesses[::3] + 1) % len(classes)
    return ClassifierReportInputs(
        labels=labels,
        guesses=guesses,
        probabilities=np.full(guesses.shape, 0.5) ** np.arange(1, guesses.shape[1] + 1),
        paths=pictures(folder, num_images).paths,
        classes=classes,
        metrics={"top1": 0.6667, "top5": 1.0},
        title="Classes",
    )


def test_classifier_report__shows_figures_confusions_and_mistakes(tmp_path: Path) -> None:
    inputs = a_classification(tmp_path, 9, HOSTILE[:3])
    write_classifier_report(tmp_path / "report.html", inputs)
    page = Page(tmp_path / "report.html")
    assert page.sections == {"figures", "classes", "confusion", "confidence", "worst"}
    assert "0.6667" in page.text
    assert f"{HOSTILE[0]} taken for {HOSTILE[1]}: 3 times, of 3 images" in page.text
    assert len(page.all("img")) == 3
    assert len(page.all("script")) == 1


def test_classifier_report__a_thousand_classes_and_an_image_that_is_gone(tmp_path: Path) -> None:
    inputs = a_classification(tmp_path, 200, [f"class {number}" for number in range(1000)])
    inputs.paths[0].unlink()
    write_classifier_report(tmp_path / "report.html", inputs)
    page = Page(tmp_path / "report.html")
    assert "classes with the most mistakes, of 1000" in page.text
    assert "The image could not be read." in page.text
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_classifier_report__refuses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image was evaluated"):
        write_classifier_report(tmp_path / "report.html", a_classification(tmp_path, 0, ("cat",)))
