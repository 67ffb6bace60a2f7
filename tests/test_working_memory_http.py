"""Pictures and masks are bounded in bytes, not in their number."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from model.postprocess import Candidates, PostprocessSettings, postprocess
from model.preprocess import Letterbox, letterbox
from model.repository import ModelRepository
from service.codecs.images import ImageLimits
from service.detector import Detector, DetectorLimits
from service.http_api.app import create_app
from service.registry import ModelRegistry
from service.runtime.base import Outputs
from service.runtime.fake import FakeRuntime
from service.scheduler.call_threads import CallThreads
from service.settings import SettingsError, load_settings
from tests.repositories import write_model
from tests.servers import running_server

SIDE = 64
NUM_OBJECTS = 10


class MasksEverywhere(FakeRuntime):
    """Finds objects all over the picture, one of each class, with masks as large as that."""

    def __init__(self) -> None:
        super().__init__()
        self.output_names = ("boxes", "scores", "labels", "kernels", "priors", "mask_features")

    def infer(self, images: np.ndarray) -> Outputs:
        n, shape = len(images), (len(images), NUM_OBJECTS)
        return {
            "boxes": np.tile(np.float32([0, 0, SIDE, SIDE]), (*shape, 1)),
            "scores": np.full(shape, 0.9, np.float32),
            "labels": np.tile(np.arange(NUM_OBJECTS, dtype=np.int32) % 3, (n, 1)),
            "kernels": np.zeros((*shape, 169), np.float32),
            "priors": np.tile(np.float32([0, 0, 8]), (*shape, 1)),
            "mask_features": np.zeros((n, 8, SIDE // 8, SIDE // 8), np.float32),
        }


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    write_model(tmp_path, "masks", task="instance", input_size=(SIDE, SIDE))
    registry = ModelRegistry(ModelRepository(tmp_path), lambda _: MasksEverywhere(), max_waiting=8)
    registry.open([])
    limits = DetectorLimits(ImageLimits(10**6, 10**6), 16, 10.0, max_working_bytes=2 * 600 * 400)
    detector = Detector(registry, CallThreads(2, "worker"), limits)
    with running_server(create_app(detector, max_buffered_bytes=10**8)) as client:
        yield client


def post(client: httpx.Client, **options: str) -> httpx.Response:
    data = cv2.imencode(".png", np.zeros((400, 600, 3), np.uint8))[1].tobytes()
    headers = {"Content-Type": "image/png"}
    return client.post("/detect", content=data, params=options, headers=headers)


def test_detect__masks_that_would_take_too_much_are_refused(client: httpx.Client) -> None:
    # Three classes leave three objects, each as large as the picture.
    response = post(client)
    assert response.status_code == 413
    body = response.json()
    assert body["code"] == "answer-too-large"
    assert str(3 * 600 * 400) in body["detail"]
    assert "mask_format=none" in body["detail"]
    assert body["limits"] == {"max_working_bytes": 2 * 600 * 400}


def test_detect__what_the_refusal_advises_helps(client: httpx.Client) -> None:
    assert len(post(client, mask_format="none").json()["detections"]) == 3
    found = post(client, max_detections="2").json()["detections"]
    assert [each["mask"]["size"] for each in found] == [[400, 600]] * 2


def test_settings__the_largest_picture_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMDET_MAX_WORKING_BYTES", "1000")
    with pytest.raises(SettingsError, match="RTMDET_MAX_IMAGE_PIXELS=64000000"):
        load_settings()


@pytest.mark.parametrize("crop", [True, False])
def test_postprocess__says_what_masks_take_before_it_makes_them(crop: bool) -> None:
    geometry: Letterbox = letterbox(np.zeros((400, 600, 3), np.uint8), SIDE, SIDE)[1]
    boxes = np.float32([[1, 1, 20, 30], [5.5, 3.2, 63, 40]])
    told: list[int] = []
    detections = postprocess(
        Candidates(
            boxes=boxes,
            scores=np.float32([0.9, 0.8]),
            labels=np.int32([0, 1]),
            kernels=np.zeros((2, 169), np.float32),
            priors=np.float32([[0, 0, 8]] * 2),
            mask_features=np.zeros((8, SIDE // 8, SIDE // 8), np.float32),
        ),
        geometry,
        PostprocessSettings(
            score_threshold=0.3, iou_threshold=0.9, max_detections=5, crop_masks_to_boxes=crop
        ),
        before_masks=told.append,
    )
    assert detections.masks is not None
    taken = sum(mask.crop.nbytes for mask in detections.masks)
    assert taken <= told[0] <= len(detections) * 600 * 400
