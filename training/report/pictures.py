"""The worst images as pictures: what is there, and what was detected."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sampling.images import UnreadableImage, read_image
from training.drawing import Picture, box_corners
from training.evaluation.inference import ImageFiles
from training.evaluation.instances import Found, Truth
from training.evaluation.mistakes import Judged, Outcome, Verdict
from training.report import kinds
from training.report.kinds import Kind
from training.report.remarks import Remark, remarks_of, tagged
from training.report.strokes import Tags, fill, stroke_outline
from training.report.views import View

#: Bytes of one picture's JPEG, reached by lowering its quality.
MAX_PICTURE_BYTES = 80_000
_QUALITIES = (88, 80, 70, 55, 40, 25, 10)

#: Remarks on what is missed, and as many on detections, that are written below a picture.
_MAX_REMARKS = 9

_FILL_OPACITY = 0.18


@dataclass(frozen=True)
class WorstPicture:
    """One image of the report. `there` and `detected` are data URIs, or "" with a `problem`."""

    name: str
    summary: str
    there: str
    detected: str
    problem: str
    remarks: tuple[Remark, ...]
    num_more: int


def worst_picture(
    judged: Judged, image: int, images: ImageFiles, position: int, classes: Sequence[str]
) -> WorstPicture:
    """The image `image` of those judged, which lies at `position` of the set."""
    everything = remarks_of(judged, image, classes)
    height, width = images.image_size(position)
    places = _places(judged, everything)
    view = View.of((height, width), places)
    remarks = everything
    if not view.is_whole:
        remarks = [everything[place] for place in np.flatnonzero(view.holds(places))]
    remarks = tagged(remarks)
    missed = [remark for remark in remarks if remark.kind is kinds.MISSED]
    written = [*missed[:_MAX_REMARKS], *remarks[len(missed) :][:_MAX_REMARKS]]
    there = detected = problem = ""
    try:
        path = images.image_path(position)
        ground = view.part(read_image(path, (height, width), upright=images.are_upright))
        there = data_uri(_with_truth(ground, judged, image, view, remarks))
        detected = data_uri(_with_detections(ground, judged, image, view, remarks))
    except UnreadableImage:
        problem = "The image could not be read."
    return WorstPicture(
        name=images.image_path(position).name,
        summary=_summary(judged, image, view, everything),
        there=there,
        detected=detected,
        problem=problem,
        remarks=tuple(written),
        num_more=len(everything) - len(written),
    )


def _summary(judged: Judged, image: int, view: View, remarks: Sequence[Remark]) -> str:
    height, width = view.image_size
    num_missed = sum(remark.kind is kinds.MISSED for remark in remarks)
    wanted = int(((judged.truth.images == image) & ~judged.truth.ignored).sum())
    part = ""
    if not view.is_whole:
        part = f"; shown is x {view.x}-{view.x + view.width}, y {view.y}-{view.y + view.height}"
    return (
        f"{width} x {height} px; {num_missed} of {wanted} missed, "
        f"{len(remarks) - num_missed} detections wrong{part}"
    )


def _places(judged: Judged, remarks: Sequence[Remark]) -> NDArray[np.floating]:
    """Where the mistakes are [n, 2]."""
    centres = [
        box_corners(
            (judged.truth if remark.kind is kinds.MISSED else judged.found).boxes[remark.row]
        )
        for remark in remarks
    ]
    return np.array(centres).reshape(-1, 4, 2).mean(axis=1)


def _with_truth(
    ground: Picture, judged: Judged, image: int, view: View, remarks: Sequence[Remark]
) -> Picture:
    rows = np.flatnonzero(judged.truth.images == image).tolist()
    looks = [kinds.OF_OUTCOME[Outcome(judged.outcomes[row])] for row in rows]
    tags = {remark.row: remark.tag for remark in remarks if remark.kind is kinds.MISSED}
    return _drawn(ground, judged.truth, rows, looks, view, tags)


def _with_detections(
    ground: Picture, judged: Judged, image: int, view: View, remarks: Sequence[Remark]
) -> Picture:
    found = judged.found
    rows = np.flatnonzero((found.images == image) & (judged.verdicts != Verdict.WEAK))
    # The strongest are drawn last and lie on top.
    rows = rows[np.argsort(found.scores[rows], kind="stable")].tolist()
    looks = [kinds.OF_VERDICT[Verdict(judged.verdicts[row])] for row in rows]
    tags = {remark.row: remark.tag for remark in remarks if remark.kind is not kinds.MISSED}
    return _drawn(ground, found, rows, looks, view, tags)


def _drawn(
    ground: Picture,
    instances: Truth | Found,
    rows: Sequence[int],
    looks: Sequence[Kind],
    view: View,
    tags: Mapping[int, str],
) -> Picture:
    """The picture with the instances of these rows; mistakes, which have tags, lie on top."""
    picture = ground.copy()
    drawn = [
        (row, look, view.outlines(instances, row)) for row, look in zip(rows, looks, strict=True)
    ]
    drawn.sort(key=lambda each: each[0] in tags)
    if instances.masks is not None:
        for row, look, outlines in drawn:
            if row in tags:
                fill(picture, outlines, look, _FILL_OPACITY)
    for _, look, outlines in drawn:
        for outline in outlines:
            stroke_outline(picture, outline, look)
    written = Tags()
    for row, look, outlines in drawn:
        if row in tags:
            written.write(picture, tags[row], np.vstack(outlines), look)
    return picture


def data_uri(picture: Picture) -> str:
    """The picture as a JPEG of at most `MAX_PICTURE_BYTES`, to stand in a page."""
    written = b""
    for quality in _QUALITIES:
        written = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(written) <= MAX_PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(written).decode("ascii")
