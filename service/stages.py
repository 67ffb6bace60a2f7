"""What is done with a picture before and after its inference; all of it on worker threads."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from model.manifest import VersionManifest
from model.postprocess import Candidates, Detections, PostprocessSettings, postprocess
from model.preprocess import Letterbox, letterbox
from service.codecs.images import DecodedImage, ImageLimits, decode, probe
from service.detection import (
    Detection,
    DetectionResult,
    DetectOptions,
    RotatedBox,
    Timings,
)
from service.errors import AnswerTooLarge
from service.scheduler.batcher import Admitted
from service.scheduler.refusals import too_late
from service.scheduler.requests import InferenceRow
from service.scheduler.working_memory import WorkingMemory
from service.served_model import ServedModel
from service.settings import WORKING_BYTES_PER_PIXEL

Answer = TypeVar("Answer")

#: Decodes the request's picture once more, upright, for an answer that shows it. A request that
#: waits for its turn holds the encoded bytes and the network's small input, never a whole picture:
#: a hundred of them would fill the memory.
Picture = Callable[[], DecodedImage]

#: Makes an interface's answer of a result and the picture. Runs on a worker thread.
Present = Callable[[DetectionResult, Picture], Answer]


@dataclass(frozen=True)
class Asked:
    """A picture and what is wanted of it; times are readings of the monotonic clock.

    `draws` says that the answer will show the picture.
    """

    data: bytes
    options: DetectOptions
    model: ServedModel
    settings: PostprocessSettings
    arrived_s: float
    deadline_s: float
    draws: bool


@dataclass(frozen=True)
class NetworkInput:
    """A picture as the network takes it, how it got there, and when."""

    pixels: NDArray[np.uint8]
    geometry: Letterbox
    ready_s: float


@dataclass(frozen=True)
class Inferred:
    """What inference gave for a picture, and when."""

    row: InferenceRow
    prepared: NetworkInput
    ended_s: float


class Stages:
    """Decodes and post-processes, within a bounded part of the memory."""

    def __init__(self, limits: ImageLimits, memory: WorkingMemory) -> None:
        self._limits = limits
        self._memory = memory

    def prepare(self, asked: Asked, admitted: Admitted) -> NetworkInput:
        """Decode a picture and fit it into the network's input."""
        # The job may have waited for a free worker; what is late already costs nothing more.
        if admitted.is_over or time.monotonic() >= asked.deadline_s:
            raise too_late()
        header = probe(asked.data, self._limits)
        with self._memory.share(asked.deadline_s) as take:
            take(header.working_bytes)
            height, width = asked.model.source.manifest.input_size
            picture = decode(asked.data, self._limits)
            return NetworkInput(*letterbox(picture.pixels_bgr, width, height), time.monotonic())

    def finish(
        self,
        asked: Asked,
        inferred: Inferred,
        note: Callable[[DetectionResult], None],
        present: Present[Answer],
    ) -> Answer:
        """Make the answer of what inference gave; `note` is told the result before."""
        if time.monotonic() >= asked.deadline_s:
            raise too_late()
        geometry, options = inferred.prepared.geometry, asked.options
        wants_masks = asked.model.identity.task == "instance" and options.mask_format != "none"
        num_pixels = geometry.image_width * geometry.image_height
        picture_bytes = num_pixels * WORKING_BYTES_PER_PIXEL if asked.draws else 0
        with self._memory.share(asked.deadline_s) as take:

            def before_masks(mask_bytes: int) -> None:
                self._require_room(mask_bytes)
                take(mask_bytes + picture_bytes)

            if not wants_masks:
                take(picture_bytes)
            detections = postprocess(
                candidates_of(inferred.row),
                geometry,
                asked.settings,
                with_masks=wants_masks,
                before_masks=before_masks,
            )
            result = _result(asked, inferred, detections)
            note(result)
            return present(result, lambda: decode(asked.data, self._limits))

    def _require_room(self, mask_bytes: int) -> None:
        most = self._memory.max_bytes
        if mask_bytes > most:
            raise AnswerTooLarge(
                f"the masks found in this picture would take {mask_bytes} bytes of memory, more "
                f"than the {most} there are; ask for fewer with max_detections or "
                "score_threshold, send a smaller picture, or choose mask_format=none",
                limits={"max_working_bytes": most},
            )


def _result(asked: Asked, inferred: Inferred, detections: Detections) -> DetectionResult:
    finished_s = time.monotonic()
    row, geometry = inferred.row, inferred.prepared.geometry
    return DetectionResult(
        model=asked.model.identity,
        width=geometry.image_width,
        height=geometry.image_height,
        detections=named(detections, asked.model.source.manifest),
        timings=Timings(
            decode_s=inferred.prepared.ready_s - asked.arrived_s,
            queue_s=row.queue_s,
            infer_s=row.infer_s,
            postprocess_s=finished_s - inferred.ended_s,
            total_s=finished_s - asked.arrived_s,
        ),
        batch_size=row.batch_size,
    )


def candidates_of(row: InferenceRow) -> Candidates:
    """One row of the graph's outputs, by their names."""
    outputs = cast("dict[str, NDArray[np.float32]]", row.outputs)
    return Candidates(
        boxes=outputs["boxes"],
        scores=outputs["scores"],
        labels=cast("NDArray[np.int32]", row.outputs["labels"]),
        kernels=outputs.get("kernels"),
        priors=outputs.get("priors"),
        mask_features=outputs.get("mask_features"),
    )


def named(detections: Detections, manifest: VersionManifest) -> list[Detection]:
    """Arrays to values, with the classes' names."""
    masks = detections.masks
    rotated = detections.rotated_boxes
    found: list[Detection] = []
    for index, label in enumerate(detections.labels):
        class_id = int(label)
        x1, y1, x2, y2 = detections.boxes_xyxy[index].tolist()
        found.append(
            Detection(
                label=manifest.classes[class_id],
                class_id=class_id,
                score=float(detections.scores[index]),
                box=(x1, y1, x2, y2),
                mask=None if masks is None else masks[index],
                rotated_box=None if rotated is None else RotatedBox(*rotated[index].tolist()),
            )
        )
    return found
