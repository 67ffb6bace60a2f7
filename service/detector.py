"""The one use-case: bytes of a picture in, detections out. Every interface calls it."""

import asyncio
import contextvars
import difflib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from model.manifest import VersionManifest
from model.postprocess import (
    SERVING_SETTINGS,
    Candidates,
    Detections,
    PostprocessSettings,
    postprocess,
)
from model.preprocess import Letterbox, letterbox
from model.repository import RepositoryModel
from service.codecs.images import DecodedImage, ImageLimits, decode
from service.detection import (
    Detection,
    DetectionResult,
    DetectOptions,
    RotatedBox,
    Timings,
)
from service.errors import FieldError, InvalidOption, Overloaded
from service.registry import ModelRegistry, ServedModel
from service.scheduler.batcher import InferenceRow, too_late
from service.tracing.base import NO_TRACING, Tracing

Answer = TypeVar("Answer")

#: Decodes the request's picture once more, upright, for an answer that shows it. A request that
#: waits for its turn holds the encoded bytes and the network's small input, never a whole picture:
#: a hundred of them would fill the memory.
Picture = Callable[[], DecodedImage]

#: Makes an interface's answer of a result and the picture. Runs on a worker thread.
Present = Callable[[DetectionResult, Picture], Answer]


@dataclass(frozen=True)
class DetectorLimits:
    """What one request may cost, and how many may be under way."""

    image: ImageLimits
    max_in_flight: int
    default_timeout_s: float


class Detector:
    """Decodes, infers and post-processes; the work runs on threads, never on the event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        workers: ThreadPoolExecutor,
        limits: DetectorLimits,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.registry = registry
        self.metrics = registry.metrics
        self.limits = limits
        self.tracing = tracing
        self._workers = workers
        self._in_flight = 0

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
        self, data: bytes, options: DetectOptions, present: Present[Answer], *, client: str = ""
    ) -> Answer:
        """Detect in one encoded picture and give what `present` makes of it.

        `client` is who asks: those of the same priority take turns. Raises the errors of
        `service.errors`.
        """
        if self._in_flight >= self.limits.max_in_flight:
            raise Overloaded(
                f"{self._in_flight} requests are under way; try again later", retry_after_s=1.0
            )
        self._in_flight += 1
        try:
            return await self._detect(data, options, present, client)
        finally:
            self._in_flight -= 1

    async def _detect(
        self, data: bytes, options: DetectOptions, present: Present[Answer], client: str
    ) -> Answer:
        arrived_s = time.monotonic()
        model = self.registry.resolve(options.model)
        manifest = model.source.manifest
        settings = postprocess_settings(model.source, options)
        longest_s = self.limits.default_timeout_s
        deadline_s = arrived_s + min(options.timeout_s or longest_s, longest_s)

        def begin() -> tuple[NDArray[np.uint8], Letterbox]:
            # The job may have waited for a free worker; what is late already costs nothing more.
            if time.monotonic() >= deadline_s:
                raise too_late()
            return _network_input(data, self.limits.image, manifest.input_size)

        with self.tracing.stage("decode") as span:
            span.set("rtmdet.image.bytes", len(data))
            pixels, geometry = await self._on_worker(begin)
            span.set("rtmdet.image.width", geometry.image_width)
            span.set("rtmdet.image.height", geometry.image_height)
        decoded_s = time.monotonic()
        began_s = time.time()
        with self.tracing.stage("queue", began_s=began_s) as span:
            span.set("rtmdet.priority", options.priority)
            row = await model.batcher.submit(
                pixels,
                priority=options.priority,
                deadline_s=deadline_s,
                client=client,
            )
            span.lasted(row.queue_s)
        self._trace_inference(model, row, began_s + row.queue_s)
        inferred_s = time.monotonic()

        def finish() -> Answer:
            detections = postprocess(
                _candidates(row),
                geometry,
                settings,
                with_masks=manifest.task == "instance" and options.mask_format != "none",
            )
            finished_s = time.monotonic()
            result = DetectionResult(
                model=model.identity,
                width=geometry.image_width,
                height=geometry.image_height,
                detections=_named(detections, manifest),
                timings=Timings(
                    decode_s=decoded_s - arrived_s,
                    queue_s=row.queue_s,
                    infer_s=row.infer_s,
                    postprocess_s=finished_s - inferred_s,
                    total_s=finished_s - arrived_s,
                ),
                batch_size=row.batch_size,
            )
            span.set("rtmdet.detections", len(detections.labels))
            span.lasted(result.timings.postprocess_s)
            self.metrics.detected(result)
            return present(result, lambda: decode(data, self.limits.image))

        with self.tracing.stage("postprocess") as span:
            return await self._on_worker(finish)

    def _trace_inference(self, model: ServedModel, row: InferenceRow, began_s: float) -> None:
        """The batch that answered, after the fact: it may have answered others too."""
        with self.tracing.stage("infer", began_s=began_s) as span:
            span.set("rtmdet.model.name", model.identity.name)
            span.set("rtmdet.model.version", model.identity.version)
            span.set("rtmdet.batch.size", row.batch_size)
            span.set("rtmdet.batch.reason", row.reason)
            span.lasted(row.infer_s)

    async def _on_worker(self, work: Callable[[], Answer]) -> Answer:
        # What is logged there belongs to the request as well.
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._workers, run, work)


def postprocess_settings(source: RepositoryModel, options: DetectOptions) -> PostprocessSettings:
    """The model's thresholds, with what the request asks for in their place.

    Raises InvalidOption for classes that the model does not have.
    """
    thresholds = source.manifest.thresholds
    return replace(
        SERVING_SETTINGS[source.manifest.task],
        score_threshold=_first(options.score_threshold, thresholds.score),
        iou_threshold=_first(options.iou_threshold, thresholds.iou),
        max_detections=_first(options.max_detections, thresholds.max_detections),
        class_agnostic=options.class_agnostic_nms,
        class_ids=None if options.classes is None else _class_ids(source, options.classes),
    )


def _first(asked: Answer | None, default: Answer) -> Answer:
    return default if asked is None else asked


def _class_ids(source: RepositoryModel, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Names or ids, as written by the caller, to ids."""
    names = source.manifest.classes
    ids_by_name = {name.casefold(): index for index, name in enumerate(names)}
    ids: list[int] = []
    for text in wanted:
        found = ids_by_name.get(text.casefold())
        if found is None and text.isdecimal() and len(text) < 10 and int(text) < len(names):
            found = int(text)
        if found is None:
            near = difflib.get_close_matches(text.casefold(), ids_by_name, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it has {_shortened(names)}"
            detail = f"model '{source.name}' has no class '{text}'{hint}"
            raise InvalidOption(detail, errors=[FieldError("/classes", detail)])
        ids.append(found)
    return tuple(ids)


def _network_input(
    data: bytes, limits: ImageLimits, input_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], Letterbox]:
    height, width = input_size
    return letterbox(decode(data, limits).pixels_bgr, width, height)


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


def _shortened(names: tuple[str, ...]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


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
