"""The whole way in torch: recorded input, our network, our decoding, our post-processing."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.decoding import Decoder
from model.masks import dense
from model.postprocess import (
    DenseOutputs,
    Detections,
    PostprocessSettings,
    postprocess,
    select_candidates,
)
from model.preprocess import Letterbox
from tests.golden import INPUT_SIZE, golden_arrays, golden_network

#: Kind of head and prefix of the recorded detections: as they are, scaled back to the original
#: image, and at the published test settings.
CASES = [
    ("det", ""),
    ("det", "rescaled_"),
    ("det", "fullcfg_"),
    ("ins", ""),
    ("ins", "rescaled_"),
    ("rot", ""),
    ("rot", "rescaled_"),
    ("rot", "fullcfg_"),
]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """As at the recording: how a sum is split over threads decides the last bits of it.

    One recorded mask has a wide border at almost zero. With one thread 7 of its pixels differ,
    in float64 14; with two none.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def detect(shared_folder: Path, kind: str, prefix: str) -> list[Detections]:
    """Our detections in the two recorded images, at the settings of the record."""
    meta = json.loads((shared_folder / "reference" / "golden" / kind / "meta.json").read_text())
    recorded = meta["full_cfg" if prefix == "fullcfg_" else "test_cfg"]
    settings = PostprocessSettings(
        score_threshold=recorded["score_thr"],
        iou_threshold=recorded["nms"]["iou_threshold"],
        max_detections=recorded["max_per_img"],
        crop_masks_to_boxes=False,
        clip_to_image=False,
        candidates_per_level=recorded["nms_pre"],
    )
    height, width = INPUT_SIZE
    geometry = Letterbox(width, height, 1.0, 1.0, width, height)
    if prefix == "rescaled_":
        image_height, image_width = meta["spec"]["ori_shape"]
        geometry = Letterbox(
            image_width, image_height, *meta["spec"]["scale_factor"], width, height
        )
    images = golden_arrays(shared_folder, kind, "forward")["input"]
    decode = Decoder(INPUT_SIZE)
    with torch.inference_mode():
        outputs = decode(golden_network(shared_folder, kind)(torch.from_numpy(images)))
    rows = [None if part is None else part.numpy() for part in outputs]
    return [
        postprocess(
            select_candidates(
                _of_image(rows, decode.priors.numpy(), image),
                settings.score_threshold,
                settings.candidates_per_level,
            ),
            geometry,
            settings,
        )
        for image in range(len(images))
    ]


def _of_image(
    rows: list[NDArray[np.float32] | None], priors: NDArray[np.float32], image: int
) -> DenseOutputs:
    logits, boxes, kernels, mask_features = (None if row is None else row[image] for row in rows)
    assert logits is not None
    assert boxes is not None
    return DenseOutputs(logits, boxes, priors, kernels, mask_features)


def _matches(
    boxes: NDArray[np.float32], labels: NDArray[np.int32], recorded: dict[str, NDArray]
) -> list[int]:
    """For each recorded detection the one of ours that lies there, each of ours once."""
    free = set(range(len(boxes)))
    matches = []
    for box, label in zip(recorded["bboxes"], recorded["labels"], strict=True):
        near = [
            index
            for index in free
            if labels[index] == label and np.abs(boxes[index] - box).max() <= 5e-3
        ]
        assert near, f"no detection of class {label} at {box}"
        matches.append(near[0])
        free.remove(near[0])
    assert not free, f"{len(free)} detections too many"
    return matches


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "prefix"), CASES)
def test_network_to_detections__are_the_recorded_ones(
    shared_folder: Path, kind: str, prefix: str
) -> None:
    predict = golden_arrays(shared_folder, kind, "predict")
    for image, found in enumerate(detect(shared_folder, kind, prefix)):
        recorded = {
            name: predict[f"{prefix}img{image}_{name}"] for name in ("bboxes", "scores", "labels")
        }
        boxes = found.boxes_xyxy if found.rotated_boxes is None else found.rotated_boxes
        matches = _matches(boxes, found.labels, recorded)
        np.testing.assert_allclose(found.scores[matches], recorded["scores"], rtol=0, atol=1e-4)
        if found.masks is None:
            continue
        count, height, width = predict[f"{prefix}img{image}_masks_shape"].tolist()
        packed = predict[f"{prefix}img{image}_masks_packed"]
        masks = np.unpackbits(packed, axis=1)[:, : height * width].reshape(count, height, width)
        for match, mask in zip(matches, masks, strict=True):
            assert np.count_nonzero(dense(found.masks[match]) != mask) <= 5
