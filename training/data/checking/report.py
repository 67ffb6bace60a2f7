"""The outcome of a check as values: what programs read as JSON, and people as table and page.

The form is `SCHEMA`; fields are only ever added to it. Kinds are those of
`training.data.checking.kinds`.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from model.config import Task
from training.data.checking.findings import Finding
from training.data.checking.kinds import REPLACED, Severity
from training.data.checking.survey import Survey
from training.data.formats.layouts import DataFormat

SCHEMA: Literal["rtmdet-data-check-1"] = "rtmdet-data-check-1"


def printable(text: str) -> str:
    """The text without what no terminal should be sent and no JSON can hold.

    Names of files may have control characters, and bytes that are no text.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


#: A text that was found on disk.
Found = Annotated[str, BeforeValidator(printable)]

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReportedPlace(_Value):
    """Where something was found: `record` is the entry inside `file`, "" for the file itself."""

    file: Found
    record: Found
    image: Found | None
    what: Found


class ReportedFinding(_Value):
    """All of one kind in one split; `places` are the first ten. `refuses`: training does."""

    kind: str
    severity: Severity
    refuses: bool
    split: str
    count: int
    title: str
    share: str
    advice: str
    places: tuple[ReportedPlace, ...]


class Quantiles(_Value):
    """Seven values of a distribution, the least and the greatest at its ends."""

    shares: tuple[float, ...] = _QUANTILES
    values: tuple[float, ...]


class ReportedSplit(_Value):
    """What a split holds: `num_trained` leaves out crowds, difficult ones and what is too small.

    Sizes are the square root of width times height in pixels, of the images and of the instances;
    those `at_input` as they are once the image is fitted into the input.
    """

    split: str
    annotations: Found
    num_images: int
    num_instances: int
    num_trained: int
    instances_by_class: dict[Found, int]
    image_sizes: Quantiles | None
    instance_sizes: Quantiles | None
    instance_sizes_at_input: Quantiles | None


class CheckReport(_Value):
    """The whole outcome, for one task.

    `refused`: `rtmdet train` would refuse these data. `stops`: a run would begin, and stop because
    more images cannot be decoded (`num_replaced`, of train) than it replaces (`max_unreadable`).
    `num_left_out`: those of val; where they are more than that, nothing is evaluated. Images that
    training leaves out anyhow do not count.
    `format` is None where what describes the set cannot be read.
    """

    schema_name: Literal["rtmdet-data-check-1"] = Field(default=SCHEMA, alias="schema")
    path: Found
    format: DataFormat | None
    task: Task
    task_is_guessed: bool
    recipe: str
    input_size: tuple[int, int]
    num_decoded: int
    refused: bool
    stops: bool
    num_replaced: int
    max_unreadable: int
    num_left_out: int
    classes: tuple[Found, ...]
    splits: tuple[ReportedSplit, ...]
    findings: tuple[ReportedFinding, ...]

    def as_json(self) -> str:
        """For programs."""
        return self.model_dump_json(by_alias=True)

    def count_of(self, severity: Severity) -> int:
        """How many kinds of findings there are of a severity."""
        return len({each.kind for each in self.findings if each.severity == severity})


def reported_finding(finding: Finding) -> ReportedFinding:
    """A finding for programs."""
    kind = finding.kind
    return ReportedFinding(
        kind=kind.code,
        severity=kind.severity,
        refuses=kind.severity == "error" and kind.code not in REPLACED,
        split=finding.split,
        count=finding.count,
        title=kind.title,
        share=finding.share,
        advice=kind.advice,
        places=tuple(
            ReportedPlace(
                file=str(place.file),
                record=place.record,
                image=None if place.image is None else str(place.image.path),
                what=place.what,
            )
            for place in finding.places
        ),
    )


def reported_split(survey: Survey, input_size: tuple[int, int]) -> ReportedSplit:
    """A split in figures."""
    sides = survey.trained_sides().astype(np.float64)
    sizes = np.sqrt(np.clip(sides, 0, None).prod(axis=1))
    images = np.sqrt(np.asarray(survey.sizes, np.float64).reshape(-1, 2).prod(axis=1))
    return ReportedSplit(
        split=survey.split,
        annotations=str(survey.source.path),
        num_images=len(survey),
        num_instances=len(survey.numbers),
        num_trained=sum(survey.trained),
        instances_by_class=survey.trained_counts(),
        image_sizes=_quantiles(images),
        instance_sizes=_quantiles(sizes),
        instance_sizes_at_input=_quantiles(sizes * survey.scales(input_size)),
    )


def _quantiles(values: NDArray[np.float64]) -> Quantiles | None:
    if not len(values):
        return None
    found = np.quantile(values, _QUANTILES)
    return Quantiles(values=tuple(round(value, 2) for value in found.tolist()))
