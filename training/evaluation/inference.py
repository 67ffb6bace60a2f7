"""From images of a data set to the network's inputs, and from candidates to detections.

Plain functions of one image, which `training.evaluation.evaluator` runs on threads. Torch-free.
"""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from model.masks import encode_rle
from model.postprocess import Candidates, PostprocessSettings, postprocess
from model.preprocess import Letterbox, letterbox
from training.data.sampling.images import Pixels, read_image
from training.evaluation.instances import Found


class ImageFiles(Protocol):
    """Images on disk, by position; as in `AnnotatedImages`."""

    are_upright: bool

    def image_path(self, position: int) -> Path:
        """Where the image lies."""
        ...

    def image_size(self, position: int) -> tuple[int, int]:
        """Height and width in pixels, as the annotations count them."""
        ...


@runtime_checkable
class ReadImages(Protocol):
    """Images that are read in a way of their own, as windows of larger ones are."""

    def read_image(self, position: int) -> Pixels:
        """uint8 [h, w, 3] BGR. Raises UnreadableImage."""
        ...


class NetworkInput(NamedTuple):
    """One image, fitted into the network's input: uint8 [h, w, 3] BGR."""

    position: int
    pixels: Pixels
    geometry: Letterbox


def read_input(images: ImageFiles, position: int, input_size: tuple[int, int]) -> NetworkInput:
    """Read an image and fit it into an input of (height, width). Raises UnreadableImage."""
    if isinstance(images, ReadImages):
        image = images.read_image(position)
    else:
        path, size = images.image_path(position), images.image_size(position)
        image = read_image(path, size, upright=images.are_upright)
    height, width = input_size
    pixels, geometry = letterbox(image, width, height)
    return NetworkInput(position, pixels, geometry)


def detections(candidates: Candidates, one: NetworkInput, settings: PostprocessSettings) -> Found:
    """What was found in one image, in its own pixels; `images` holds its position."""
    found = postprocess(candidates, one.geometry, settings)
    boxes = found.boxes_xyxy if found.rotated_boxes is None else found.rotated_boxes
    masks = None
    if found.masks is not None:
        masks = tuple(encode_rle(mask)["counts"].encode("ascii") for mask in found.masks)
    return Found(
        images=np.full(len(found), one.position, np.int64),
        labels=found.labels.astype(np.int64),
        scores=found.scores,
        boxes=boxes,
        masks=masks,
    )
