"""The shipped models and pictures, as a runtime gets them, and what two runtimes find compared."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.masks import dense
from model.postprocess import SERVING_SETTINGS, Candidates, Detections, postprocess
from model.preprocess import Letterbox, letterbox
from model.repository import ModelRepository, RepositoryModel
from service.runtime.base import Outputs
from tests.conftest import PROJECT

REPOSITORY = PROJECT / "triton_repo"
MODELS = ("rtmdet-nano-shapes", "rtmdet-ins-nano-shapes", "rtmdet-r-nano-shapes")
PICTURES = sorted((PROJECT / "examples/pictures").glob("*.jpg"))


def stored(name: str) -> RepositoryModel:
    return ModelRepository(REPOSITORY).open(name)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The example pictures as a network takes them."""

    pixels: NDArray[np.uint8]
    geometries: list[Letterbox]


@cache
def inputs_of(name: str) -> Inputs:
    height, width = stored(name).manifest.input_size
    fitted = [letterbox(cv2.imread(str(path)), width, height) for path in PICTURES]
    return Inputs(np.stack([pixels for pixels, _ in fitted]), [each for _, each in fitted])


def detections(name: str, outputs: Outputs, row: int, geometry: Letterbox) -> Detections:
    task = stored(name).manifest.task
    candidates: dict[str, Any] = {each: values[row] for each, values in outputs.items()}
    return postprocess(
        Candidates(**candidates), geometry, SERVING_SETTINGS[task], with_masks=task == "instance"
    )


def assert_same_detections(
    ours: Detections, theirs: Detections, *, score: float, box: float, mask: int
) -> None:
    """The same objects in the same order; a mask may differ in so many pixels."""
    assert len(theirs.scores) > 0, "nothing was detected: the test shows nothing"
    assert ours.labels.tolist() == theirs.labels.tolist()
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=score)
    np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=0, atol=box)
    if theirs.rotated_boxes is not None:
        assert ours.rotated_boxes is not None
        np.testing.assert_allclose(
            ours.rotated_boxes[:, :4], theirs.rotated_boxes[:, :4], rtol=0, atol=box
        )
    for here, there in zip(ours.masks or [], theirs.masks or [], strict=True):
        assert np.count_nonzero(dense(here) != dense(there)) <= mask


def assert_found_again(name: str, ours: Outputs, theirs: Outputs, *, score: float) -> None:
    """What is sure in one precision is there in the other, at its place."""
    for row, geometry in enumerate(inputs_of(name).geometries):
        here, there = (detections(name, each, row, geometry) for each in (ours, theirs))
        sure = np.flatnonzero(there.scores > 0.5)
        assert len(sure)
        for index in sure:
            off = np.abs(here.boxes_xyxy - there.boxes_xyxy[index]).max(axis=1)
            alike = (here.labels == there.labels[index]) & (off < 5)
            alike &= np.abs(here.scores - there.scores[index]) < score
            assert alike.any(), f"{there.boxes_xyxy[index]} of {there.labels[index]} is not there"
