import math

import numpy as np
import pytest

from model.mask_assembly import assemble_masks
from model.masks import dense
from model.preprocess import Letterbox, letterbox_of


@pytest.fixture
def mask_head(shared_folder):
    return dict(np.load(shared_folder / "reference/golden/units/maskhead.npz"))


@pytest.fixture
def instances():
    """Five kernels with their priors, and smooth mask features of an input of 160 x 128."""
    random = np.random.default_rng(7)
    kernels = random.normal(0, 0.5, (5, 169)).astype(np.float32)
    priors = [[40, 40, 8], [80, 64, 16], [128, 96, 32], [0, 0, 8], [152, 120, 8]]
    features = random.normal(0, 2, (8, 16, 20)).astype(np.float32)
    return kernels, np.array(priors, np.float32), features


def whole_boxes(letterbox: Letterbox, count: int) -> np.ndarray:
    box = [0, 0, letterbox.image_width, letterbox.image_height]
    return np.tile(np.array(box, np.float32), (count, 1))


@pytest.mark.parity
def test_assemble_masks__agrees_with_the_reference(mask_head):
    letterbox = letterbox_of(256, 192, 256, 192)
    expected = np.unpackbits(mask_head["masks_up8_packed"], axis=1).reshape(-1, 192, 256)

    masks = assemble_masks(
        mask_head["kernels"],
        mask_head["priors"][:, :3],
        mask_head["mask_feat"],
        whole_boxes(letterbox, 10),
        letterbox,
        threshold=0.5,
        crop_to_boxes=False,
    )

    different = [int((dense(mask) != one).sum()) for mask, one in zip(masks, expected, strict=True)]
    assert max(different) <= 5
    assert 0 < expected.sum() < expected.size


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_assemble_masks__a_threshold_is_a_level_of_the_logits(mask_head, threshold):
    letterbox = letterbox_of(256, 192, 256, 192)
    expected = mask_head["up8_first"] > math.log(threshold / (1 - threshold))

    [mask] = assemble_masks(
        mask_head["kernels"][:1],
        mask_head["priors"][:1, :3],
        mask_head["mask_feat"],
        whole_boxes(letterbox, 1),
        letterbox,
        threshold=threshold,
        crop_to_boxes=False,
    )

    assert (dense(mask) != expected).sum() <= 5


@pytest.mark.parametrize("crop_to_boxes", [False, True])
@pytest.mark.parametrize(
    "image_size",
    [(160, 128), (160, 100), (480, 360), (213, 170), (37, 30), (12, 9), (33, 400), (400, 33)],
)
def test_assemble_masks__agrees_with_enlarging_twice(instances, image_size, crop_to_boxes):
    pytest.importorskip("torch")
    letterbox = letterbox_of(*image_size, 160, 128)
    boxes = whole_boxes(letterbox, len(instances[0]))

    masks = assemble_masks(*instances, boxes, letterbox, 0.5, crop_to_boxes)

    # In images far from square the published rounding may leave out the last rows or columns.
    logits = enlarged_twice(*instances, letterbox)
    _, height, width = logits.shape
    on = np.stack([dense(mask)[:height, :width] for mask in masks])
    clear = np.abs(logits) > 1e-3
    np.testing.assert_array_equal(on[clear], logits[clear] > 0)
    assert clear.mean() > 0.99
    assert 0 < on.sum() < on.size


def enlarged_twice(kernels, priors, features, letterbox):
    """Mask logits of the original image the long way: everywhere, step by step."""
    import torch
    from torch.nn.functional import interpolate

    down, across = np.mgrid[: features.shape[1], : features.shape[2]] * 8.0
    logits = []
    for kernel, (x, y, stride) in zip(kernels, priors, strict=True):
        w1, w2, w3, b1, b2, b3 = np.split(kernel, np.cumsum([80, 64, 8, 8, 8]))
        place = np.stack([x - across, y - down]) / (8 * stride)
        values = np.concatenate([place, features]).reshape(10, -1)
        values = np.maximum(w1.reshape(8, 10) @ values + b1[:, None], 0)
        values = np.maximum(w2.reshape(8, 8) @ values + b2[:, None], 0)
        logits.append((w3 @ values + b3).reshape(features.shape[1:]))
    input_logits = interpolate(
        torch.from_numpy(np.stack(logits))[None], scale_factor=8, mode="bilinear"
    )
    size = [
        math.ceil(input_logits.shape[2] * (1 / letterbox.scale_x)),
        math.ceil(input_logits.shape[3] * (1 / letterbox.scale_y)),
    ]
    image_logits = interpolate(input_logits, size=size, mode="bilinear")[0].numpy()
    return image_logits[:, : letterbox.image_height, : letterbox.image_width]


def test_assemble_masks__cropped_is_the_whole_mask_inside_the_box(instances):
    letterbox = letterbox_of(480, 360, 160, 128)
    boxes = np.array(
        [
            [100.5, 80.2, 300.9, 250.0],
            [-20, -20, 200, 150],
            [300, 200, 700, 900],
            [0, 0, 3, 3],
            [250.2, 100.4, 250.8, 300],
        ],
        np.float32,
    )

    whole = assemble_masks(*instances, boxes, letterbox, 0.5, crop_to_boxes=False)
    cropped = assemble_masks(*instances, boxes, letterbox, 0.5, crop_to_boxes=True)

    for mask, part, (x1, y1, x2, y2) in zip(whole, cropped, boxes.tolist(), strict=True):
        inside = np.zeros((360, 480), np.bool_)
        inside[max(math.floor(y1), 0) : math.ceil(y2), max(math.floor(x1), 0) : math.ceil(x2)] = 1
        np.testing.assert_array_equal(dense(part), dense(mask) & inside)
        assert part.crop.size <= inside.sum()
    assert sum(dense(mask).sum() for mask in cropped) > 1000


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([500, 100, 600, 200], id="right of the image"),
        pytest.param([-50, -60, -1, -1], id="left of the image"),
        pytest.param([480, 0, 480, 360], id="no width, at the border"),
        pytest.param([100, 50, 100, 50], id="no area, between pixels"),
        pytest.param([100, 50, 90, 40], id="turned inside out"),
    ],
)
def test_assemble_masks__of_a_box_without_pixels_is_empty(instances, box):
    kernels, priors, features = instances
    letterbox = letterbox_of(480, 360, 160, 128)
    boxes = np.array([box], np.float32)

    [mask] = assemble_masks(kernels[:1], priors[:1], features, boxes, letterbox, 0.5, True)

    assert not dense(mask).any()
    assert (mask.image_width, mask.image_height) == (480, 360)


@pytest.mark.parametrize("crop_to_boxes", [False, True])
def test_assemble_masks__without_a_cell_above_the_threshold_is_empty(instances, crop_to_boxes):
    kernels, priors, features = instances
    letterbox = letterbox_of(480, 360, 160, 128)
    kernels = np.zeros_like(kernels)
    kernels[:, -1] = [-1, -0.001, 0, 0.001, 1]

    masks = assemble_masks(
        kernels, priors, features, whole_boxes(letterbox, 5), letterbox, 0.5, crop_to_boxes
    )

    assert [int(dense(mask).sum()) for mask in masks] == [0, 0, 0, 480 * 360, 480 * 360]


def test_assemble_masks__of_no_instances_are_none(instances):
    kernels, priors, features = instances
    letterbox = letterbox_of(480, 360, 160, 128)
    boxes = np.zeros((0, 4), np.float32)

    assert assemble_masks(kernels[:0], priors[:0], features, boxes, letterbox, 0.5, True) == []


def test_assemble_masks__of_a_large_mask_is_the_same_in_parts(instances, monkeypatch):
    letterbox = letterbox_of(480, 360, 160, 128)
    boxes = whole_boxes(letterbox, 5)
    at_once = assemble_masks(*instances, boxes, letterbox, 0.5, True)

    monkeypatch.setattr("model.mask_assembly._PIXELS_PER_BAND", 1000)
    in_parts = assemble_masks(*instances, boxes, letterbox, 0.5, True)

    for one, other in zip(at_once, in_parts, strict=True):
        assert (dense(one) != dense(other)).sum() <= 5


def test_assemble_masks__refuses_features_of_another_input(instances):
    letterbox = letterbox_of(480, 360, 320, 256)

    with pytest.raises(ValueError, match="20x16 cells do not belong to an input of 320x256"):
        assemble_masks(*instances, whole_boxes(letterbox, 5), letterbox, 0.5, True)
