"""The one use-case: bytes of a picture in, detections out. Every interface calls it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from service.errors import AnswerTooLarge, Overloaded
from service.model_options import postprocess_settings
from service.registry import ModelRegistry
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
class DetectorLimits:
    """What one request may cost, and what all of them together.

    `max_in_flight` counts the pictures of one model from their arrival to their answer,
    `max_working_bytes` what is decoded, and masks, of all models.
    """

    image: ImageLimits
    max_in_flight: int
    default_timeout_s: float
    max_working_bytes: int = 1024 * 1024 * 1024
    max_images_per_request: int = 32


@dataclass(frozen=True)
class _Asked:
    """A picture on its way through the stages."""

    data: bytes
    options: DetectOptions
    model: ServedModel
    settings: PostprocessSettings
    arrived_s: float
    deadline_s: float
    draws: bool


class Detector:
    """Decodes, infers and post-processes; the work runs on threads, never on the event loop."""

    def __init__(
        self, registry: ModelRegistry, workers: ThreadPoolExecutor, limits: DetectorLimits
    ) -> None:
        self.registry = registry
        self.metrics = registry.metrics
        self.limits = limits
        self._workers = workers
        self._memory = WorkingMemory(limits.max_working_bytes)
        self._in_flight: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self.registry.start()

    async def stop(self) -> None:
        """Finish what is under way and release everything."""
        await self.registry.stop()
        self._workers.shutdown()

    def metrics_now(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self.registry.measure()
        return self.metrics.exposition()

    async def detect(
        self,
        data: bytes,
        options: DetectOptions,
        present: Present[Answer],
        *,
        client: str = "",
        draws: bool = False,
    ) -> Answer:
        """Detect in one encoded picture and give what `present` makes of it.

        `client` is who asks: those of the same priority take turns. `draws` says that `present`
        will ask for the picture. Raises the errors of `service.errors`.
        """
        arrived_s = time.monotonic()
        model = self.registry.resolve(options.model)
        with self._under_way(model.source.name):
            longest_s = self.limits.default_timeout_s
            asked = _Asked(
                data,
                options,
                model,
                postprocess_settings(model.source, options),
                arrived_s,
                arrived_s + min(options.timeout_s or longest_s, longest_s),
                draws,
            )
            return await self._detect(asked, present, client)

    @contextmanager
    def _under_way(self, model: str) -> Generator[None]:
        """A place among the pictures of a model that are under way. Raises Overloaded."""
        if self._in_flight[model] >= self.limits.max_in_flight:
            raise Overloaded(
                f"{self._in_flight[model]} pictures are under way for this model; try again later",
                retry_after_s=1.0,
            )
        self._in_flight[model] += 1
        try:
            yield
        finally:
            self._in_flight[model] -= 1

    async def _detect(self, asked: _Asked, present: Present[Answer], client: str) -> Answer:
        model = asked.model
        with model.batcher.admit(
            priority=asked.options.priority,
            # Inference must end while there is time for what follows.
            deadline_s=asked.deadline_s - model.postprocessing.mean_s(1),
            client=client,
            ready_in_s=model.decoding.mean_s(1),
        ) as admitted:
            pixels, geometry = await self._on_worker(lambda: self._begin(asked, admitted))
            decoded_s = time.monotonic()
            model.decoding.observe(1, decoded_s - asked.arrived_s)
            row = await admitted.infer(pixels)
        inferred_s = time.monotonic()
        answer = await self._on_worker(
            lambda: self._finish(asked, geometry, row, (decoded_s, inferred_s), present)
        )
        model.postprocessing.observe(1, time.monotonic() - inferred_s)
        return answer

    def _begin(self, asked: _Asked, admitted: Admitted) -> tuple[NDArray[np.uint8], Letterbox]:
        """The network's input; on a worker thread."""
        # The job may have waited for a free worker; what is late already costs nothing more.
        if admitted.is_over or time.monotonic() >= asked.deadline_s:
            raise too_late()
        header = probe(asked.data, self.limits.image)
        with self._memory.share(asked.deadline_s) as take:
            take(header.width * header.height * WORKING_BYTES_PER_PIXEL)
            height, width = asked.model.source.manifest.input_size
            return letterbox(decode(asked.data, self.limits.image).pixels_bgr, width, height)

    def _finish(
        self,
        asked: _Asked,
        geometry: Letterbox,
        row: InferenceRow,
        ended_s: tuple[float, float],
        present: Present[Answer],
    ) -> Answer:
        """The answer from a row of the network's outputs; on a worker thread.

        `ended_s` is when decoding and inference ended.
        """
        if time.monotonic() >= asked.deadline_s:
            raise too_late()
        decoded_s, inferred_s = ended_s
        manifest = asked.model.source.manifest
        wants_masks = manifest.task == "instance" and asked.options.mask_format != "none"
        picture_bytes = (
            geometry.image_width * geometry.image_height * WORKING_BYTES_PER_PIXEL
            if asked.draws
            else 0
        )
        with self._memory.share(asked.deadline_s) as take:

            def before_masks(mask_bytes: int) -> None:
                self._require_room(mask_bytes)
                take(mask_bytes + picture_bytes)

            if not wants_masks:
                take(picture_bytes)
            detections = postprocess(
                _candidates(row),
                geometry,
                asked.settings,
                with_masks=wants_masks,
                before_masks=before_masks,
            )
            finished_s = time.monotonic()
            result = DetectionResult(
                model=asked.model.identity,
                width=geometry.image_width,
                height=geometry.image_height,
                detections=_named(detections, manifest),
                timings=Timings(
                    decode_s=decoded_s - asked.arrived_s,
                    queue_s=row.queue_s,
                    infer_s=row.infer_s,
                    postprocess_s=finished_s - inferred_s,
                    total_s=finished_s - asked.arrived_s,
                ),
                batch_size=row.batch_size,
            )
            self.metrics.detected(result)
            return present(result, lambda: decode(asked.data, self.limits.image))

    def _require_room(self, mask_bytes: int) -> None:
        if mask_bytes > self.limits.max_working_bytes:
            raise AnswerTooLarge(
                f"the masks found in this picture would take {mask_bytes} bytes of memory, more "
                f"than the {self.limits.max_working_bytes} there are; ask for fewer with "
                "max_detections or score_threshold, send a smaller picture, or choose "
                "mask_format=none",
                limits={"max_working_bytes": self.limits.max_working_bytes},
            )

    async def _on_worker(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


def _candidates(row: InferenceRow) -> Candidates:
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


def _named(detections: Detections, manifest: VersionManifest) -> list[Detection]:
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
