"""What the rivals have in common with our server: decoding, engine and post-processing are ours."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from model.postprocess import Candidates, postprocess
from model.preprocess import Letterbox, letterbox
from model.repository import ModelRepository
from service.codecs.images import ImageLimits, decode
from service.detection import DetectOptions
from service.model_options import postprocess_settings
from service.runtime.base import Outputs
from service.runtime.openvino_session import OpenVINOSession

MAX_BATCH = 8
BATCH_WAIT_S = 0.005

_LIMITS = ImageLimits(32 * 1024 * 1024, 64_000_000)

Prepared = tuple[np.ndarray, Letterbox]


class PlainDetector:
    """The only model of a repository. A batch runs side by side on the engine's streams, for that
    is the fastest way on a processor (docs/decisions/0006-two-compilations-of-every-graph.md)."""

    def __init__(self, repository: Path) -> None:
        models = ModelRepository(repository)
        source = models.open(models.names()[0])
        self._input_size = source.manifest.input_size
        self._classes = source.manifest.classes
        self._settings = postprocess_settings(source, DetectOptions())
        self._session = OpenVINOSession(source.graph_path, input_size=self._input_size)
        self._streams = ThreadPoolExecutor(self._session.concurrency)

    def prepare(self, data: bytes) -> Prepared:
        """An encoded picture to the network's input."""
        height, width = self._input_size
        return letterbox(decode(data, _LIMITS).pixels_bgr, width, height)

    def infer(self, batch: Sequence[np.ndarray]) -> list[Outputs]:
        """A picture's outputs each, without the axis of the batch."""
        outputs = self._streams.map(lambda pixels: self._session.infer(pixels[None]), batch)
        return [{name: values[0] for name, values in each.items()} for each in outputs]

    def answer(self, outputs: Outputs, geometry: Letterbox) -> bytes:
        """As JSON, with what a client needs."""
        candidates = Candidates(outputs["boxes"], outputs["scores"], outputs["labels"])
        found = postprocess(candidates, geometry, self._settings, with_masks=False)
        columns = (found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist())
        detections = [
            {"label": self._classes[label], "class_id": label, "score": score, "box": box}
            for label, score, box in zip(*columns, strict=True)
        ]
        return json.dumps({"detections": detections}).encode()
