"""The outcome of a check as one HTML file that needs no network: figures, findings, pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import STRIDES
from training.data.checking.charts import class_bars, size_bars
from training.data.checking.check import Checked
from training.data.checking.drawing import data_url, draw_image, draw_place
from training.data.checking.findings import Finding
from training.data.checking.report import CheckReport, printable
from training.data.checking.table import is_of_classes, place_line, verdict
from training.report.page import write_page as write_html

#: Pictures of each kind of finding.
_MAX_PICTURES = 4


@dataclass(frozen=True)
class Tile:
    """A picture and what is written below it; `url` is None where nothing can be drawn."""

    url: str | None
    caption: str
    is_pair: bool = False


def write_page(file: Path, checked: Checked) -> None:
    """Write the page; it appears as a whole. Raises OSError where it cannot."""
    report = checked.report
    values = {
        "title": f"Data check: {report.path}",
        "facts": _facts(report),
        "report": report,
        "verdict": verdict(report),
        "findings": [
            (shown, list(_pictures(found, checked)))
            for shown, found in zip(report.findings, checked.findings, strict=True)
        ],
        "samples": [
            (survey.split, list(_samples(checked, survey.split))) for survey in checked.surveys
        ],
        "class_bars": class_bars(checked.surveys) if checked.surveys else [],
        "size_bars": [(each.split, size_bars(each, report.input_size)) for each in checked.surveys],
        "finest_stride": STRIDES[0],
        "is_of_classes": is_of_classes,
        "place_line": lambda place: place_line(place, report.path),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_html(file, "page.html", values, package="training.data.checking")


def _facts(report: CheckReport) -> dict[str, str]:
    """What stands under the title."""
    height, width = report.input_size
    guessed = ", as the annotations suggest" if report.task_is_guessed else ""
    return {
        "Data set": (report.format or "unknown").upper(),
        "Checked for": f"{report.task} models{guessed}",
        "Input": f"{height} x {width} pixels",
        "Images decoded": f"{report.num_decoded:,}" if report.num_decoded else "none",
    }


def _pictures(finding: Finding, checked: Checked) -> Iterator[Tile]:
    uprights = {survey.split: survey.are_upright for survey in checked.surveys}
    for place in finding.places[:_MAX_PICTURES]:
        picture = draw_place(
            place, checked.report.classes, upright=uprights.get(finding.split, True)
        )
        if picture is not None:
            name = printable(place.file.name if place.image is None else place.image.path.name)
            yield Tile(
                data_url(picture),
                " ".join(filter(None, (name, place.record))),
                is_pair=place.like is not None,
            )


def _samples(checked: Checked, split: str) -> Iterator[Tile]:
    (survey,) = (each for each in checked.surveys if each.split == split)
    for image in survey.samples:
        picture = draw_image(image, checked.report.classes, upright=survey.are_upright)
        count = len(image.instances)
        caption = f"{printable(image.path.name)}: {count} instance{'' if count == 1 else 's'}"
        yield Tile(None if picture is None else data_url(picture), caption)
