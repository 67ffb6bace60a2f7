"""What went wrong in one image, in words: the text beside its picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.evaluation.mistakes import Judged, Outcome, Verdict
from training.report import kinds
from training.report.kinds import Kind


@dataclass(frozen=True)
class Remark:
    """A mistake with its tag, which stands in the picture too: "M1", "F2".

    `row` is that of the instance in `Truth` if it was missed, else of the detection in `Found`.
    """

    tag: str
    kind: Kind
    text: str
    row: int


def remarks_of(judged: Judged, image: int, classes: Sequence[str]) -> list[Remark]:
    """The mistakes in an image: what was missed, then detections, strongest first; no tags yet."""
    truth, found = judged.truth, judged.found
    missed = np.flatnonzero((truth.images == image) & (judged.outcomes > Outcome.FOUND))
    wrong = np.flatnonzero((found.images == image) & (judged.verdicts > Verdict.RIGHT))
    wrong = wrong[np.argsort(-found.scores[wrong], kind="stable")]
    told = [(kinds.MISSED, row, _missed(judged, row, classes)) for row in missed.tolist()]
    for row in wrong.tolist():
        kind = kinds.OF_VERDICT[Verdict(judged.verdicts[row])]
        told.append((kind, row, _wrong(judged, row, classes)))
    return [Remark("", kind, text, row) for kind, row, text in told]


def tagged(remarks: Sequence[Remark]) -> list[Remark]:
    """The same with tags, numbered within their kind."""
    numbers = dict.fromkeys(kinds.ALL, 0)
    with_tags: list[Remark] = []
    for remark in remarks:
        numbers[remark.kind] += 1
        tag = f"{remark.kind.letter}{numbers[remark.kind]}"
        with_tags.append(replace(remark, tag=tag))
    return with_tags


def _missed(judged: Judged, row: int, classes: Sequence[str]) -> str:
    name = classes[judged.truth.labels[row]]
    match Outcome(judged.outcomes[row]):
        case Outcome.CONFUSED:
            return f"{name} missed: detected as another class"
        case Outcome.POORLY_PLACED:
            return f"{name} missed: a detection is near, but poorly placed"
    return f"{name} missed"


def _wrong(judged: Judged, row: int, classes: Sequence[str]) -> str:
    name, score = classes[judged.found.labels[row]], judged.found.scores[row]
    said, overlap = f"{name} {score:.2f}", judged.overlaps[row]
    match Verdict(judged.verdicts[row]):
        case Verdict.CONFUSED:
            there = classes[int(judged.truth.labels[judged.instances[row]])]
            return f"{said}: is {there} (overlap {overlap:.2f})"
        case Verdict.POORLY_PLACED:
            return f"{said}: poorly placed (overlap {overlap:.2f})"
        case Verdict.DUPLICATE:
            return f"{said}: found already (overlap {overlap:.2f})"
    return f"{said}: nothing of that kind is there"
