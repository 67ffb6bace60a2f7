"""From images of a data set to detections in them, with the published settings.

The network runs on batches; reading images and assembling detections are plain functions of one
image, which `training.evaluation.evaluator` runs on threads.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.config import Task
from model.decoding import Decoder
from model.graph import Normalise
from model.heads.outputs import HeadOutputs
from model.masks import encode_rle
from model.postprocess import PUBLISHED_SETTINGS, DenseOutputs, postprocess, select_candidates
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


class NetworkInput(NamedTuple):
    """One image, fitted into the network's input: uint8 [h, w, 3] BGR."""

    position: int
    pixels: Pixels
    geometry: Letterbox


def read_input(images: ImageFiles, position: int, input_size: tuple[int, int]) -> NetworkInput:
    """Read an image and fit it into an input of (height, width). Raises UnreadableImage."""
    path, size = images.image_path(position), images.image_size(position)
    image = read_image(path, size, upright=images.are_upright)
    height, width = input_size
    pixels, geometry = letterbox(image, width, height)
    return NetworkInput(position, pixels, geometry)


class BatchRunner:
    """Runs a detector on inputs of one size, up to its dense predictions."""

    def __init__(self, input_size: tuple[int, int], device: torch.device, *, bf16: bool) -> None:
        self._normalise = Normalise().to(device)
        self._decode = Decoder(input_size).to(device)
        self._priors = self._decode.priors.cpu().numpy()
        self._device = device
        self._bf16 = bf16

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: list[NetworkInput]) -> list[DenseOutputs]:
        """The predictions for each input, in float32 and on the CPU."""
        pixels = torch.from_numpy(np.stack([each.pixels for each in inputs]))
        images = self._normalise(pixels.to(self._device))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            outputs = network(images)
        dense = self._decode(_in_float32(outputs))
        parts = [None if part is None else part.cpu().numpy() for part in dense]
        logits, boxes, kernels, mask_features = parts
        assert logits is not None
        assert boxes is not None
        return [
            DenseOutputs(
                logits=logits[row],
                boxes=boxes[row],
                priors=self._priors,
                kernels=None if kernels is None else kernels[row],
                mask_features=None if mask_features is None else mask_features[row],
            )
            for row in range(len(inputs))
        ]


def detections(task: Task, dense: DenseOutputs, one: NetworkInput) -> Found:
    """What was found in one image, in its own pixels; `images` holds its position."""
    settings = PUBLISHED_SETTINGS[task]
    candidates = select_candidates(dense, settings.score_threshold, settings.candidates_per_level)
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


def _in_float32(outputs: HeadOutputs) -> HeadOutputs:
    def levels(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.float() for tensor in tensors]

    features = outputs.mask_features
    return HeadOutputs(
        logits=levels(outputs.logits),
        distances=levels(outputs.distances),
        angles=levels(outputs.angles),
        kernels=levels(outputs.kernels),
        mask_features=None if features is None else features.float(),
    )
