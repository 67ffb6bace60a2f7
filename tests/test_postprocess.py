import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from model.masks import dense
from model.postprocess import (
    PUBLISHED_SETTINGS,
    SERVING_SETTINGS,
    Candidates,
    DenseOutputs,
    PostprocessSettings,
    postprocess,
    select_candidates,
)
from model.preprocess import Letterbox, letterbox_of
from model.rotated_iou import enclosing_boxes, rotated_iou

FOLDERS = {"detect": "det", "instance": "ins", "rotated": "rot"}

#: A picture of 200 x 100 in an input of 400 x 400: twice as large, padded below.
LETTERBOX = letterbox_of(200, 100, 400, 400)

EVERYTHING = PostprocessSettings(
    score_threshold=0,
    iou_threshold=1,
    max_detections=1000,
    crop_masks_to_boxes=False,
    clip_to_image=False,
)


def candidates(boxes, scores=None, labels=None) -> Candidates:
    """Boxes in pixels of the input, by default with falling scores and one class."""
    boxes = np.array(boxes, np.float32)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    labels = np.zeros(len(boxes)) if labels is None else labels
    return Candidates(boxes, np.array(scores, np.float32), np.array(labels, np.int32))


def instance_candidates(boxes) -> Candidates:
    """As `candidates`, whose masks are on everywhere."""
    kernels = np.zeros((len(boxes), 169), np.float32)
    kernels[:, -1] = 1
    return replace(
        candidates(boxes),
        kernels=kernels,
        priors=np.full((len(boxes), 3), 8, np.float32),
        mask_features=np.zeros((8, 50, 50), np.float32),
    )


def dense_outputs(task, forward, image) -> DenseOutputs:
    """Recorded head outputs of one image, decoded as the published heads do."""
    levels = []
    for level, stride in enumerate((8, 16, 32)):
        logits = forward[f"cls_score_{level}"][image]
        rows, columns = np.mgrid[: logits.shape[1], : logits.shape[2]].reshape(2, -1) * stride
        x, y = columns.astype(np.float32), rows.astype(np.float32)
        left, top, right, bottom = forward[f"bbox_pred_{level}"][image].reshape(4, -1)
        if task == "rotated":
            angle = forward[f"angle_pred_{level}"][image].reshape(-1)
            across, down = (right - left) / 2, (bottom - top) / 2
            cx = x + across * np.cos(angle) - down * np.sin(angle)
            cy = y + across * np.sin(angle) + down * np.cos(angle)
            boxes = [cx, cy, left + right, top + bottom, (angle + np.pi / 2) % np.pi - np.pi / 2]
        else:
            boxes = [
                np.clip(x - left, 0, 320),
                np.clip(y - top, 0, 256),
                np.clip(x + right, 0, 320),
                np.clip(y + bottom, 0, 256),
            ]
        arrays = [
            logits.reshape(len(logits), -1),
            np.stack(boxes),
            np.stack([x, y, np.full_like(x, stride)]),
        ]
        if task == "instance":
            arrays.append(forward[f"kernel_pred_{level}"][image].reshape(169, -1))
        levels.append(arrays)
    logits, boxes, priors, *kernels = (
        np.concatenate(parts, 1) for parts in zip(*levels, strict=True)
    )
    features = forward["mask_feat"][image] if task == "instance" else None
    return DenseOutputs(logits, boxes, priors.T, kernels[0] if kernels else None, features)


def recorded_case(shared_folder, task, prefix):
    """Head outputs, recorded detections, and the settings and geometry they were made with."""
    folder = shared_folder / "reference/golden" / FOLDERS[task]
    meta = json.loads((folder / "meta.json").read_text())
    config = meta["full_cfg" if prefix == "fullcfg_" else "test_cfg"]
    settings = PostprocessSettings(
        score_threshold=config["score_thr"],
        iou_threshold=config["nms"]["iou_threshold"],
        max_detections=config["max_per_img"],
        crop_masks_to_boxes=False,
        clip_to_image=False,
        candidates_per_level=config["nms_pre"],
    )
    letterbox = Letterbox(320, 256, 1.0, 1.0, 320, 256)
    if prefix == "rescaled_":
        height, width = meta["spec"]["ori_shape"]
        letterbox = Letterbox(width, height, *meta["spec"]["scale_factor"], 320, 256)
    forward, predict = np.load(folder / "forward.npz"), np.load(folder / "predict.npz")
    return forward, predict, settings, letterbox


def by_class_and_place(labels, boxes):
    return np.lexsort([*boxes.T[::-1].round(1), labels])


@pytest.mark.parity
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(
    ("task", "prefix"),
    [(task, prefix) for task in FOLDERS for prefix in ("", "rescaled_")]
    + [("detect", "fullcfg_"), ("rotated", "fullcfg_")],
)
def test_postprocess__agrees_with_the_reference(shared_folder, task, prefix, image):
    forward, predict, settings, letterbox = recorded_case(shared_folder, task, prefix)
    expected = {
        name: predict[f"{prefix}img{image}_{name}"] for name in ("bboxes", "scores", "labels")
    }

    selected = select_candidates(
        dense_outputs(task, forward, image),
        settings.score_threshold,
        settings.candidates_per_level,
    )
    found = postprocess(selected, letterbox, settings)

    boxes = found.boxes_xyxy if found.rotated_boxes is None else found.rotated_boxes
    assert len(found) == len(expected["scores"])
    ours = by_class_and_place(found.labels, boxes)
    theirs = by_class_and_place(expected["labels"], expected["bboxes"])
    np.testing.assert_array_equal(found.labels[ours], expected["labels"][theirs])
    np.testing.assert_allclose(boxes[ours], expected["bboxes"][theirs], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.scores[ours], expected["scores"][theirs], rtol=0, atol=1e-6)
    # And in the same order, but for scores so close that the last bit of a sigmoid decides.
    steps = -np.diff(expected["scores"], prepend=2, append=-1)
    clear = np.minimum(steps[1:], steps[:-1]) > 1e-6
    np.testing.assert_allclose(boxes[clear], expected["bboxes"][clear], rtol=0, atol=1e-4)
    assert clear.mean() > 0.8


@pytest.mark.parity
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("prefix", ["", "rescaled_"])
def test_postprocess__masks_agree_with_the_reference(shared_folder, prefix, image):
    forward, predict, settings, letterbox = recorded_case(shared_folder, "instance", prefix)
    count, height, width = predict[f"{prefix}img{image}_masks_shape"].tolist()
    packed = predict[f"{prefix}img{image}_masks_packed"]
    expected = np.unpackbits(packed, axis=1)[:, : height * width].reshape(count, height, width)

    selected = select_candidates(
        dense_outputs("instance", forward, image),
        settings.score_threshold,
        settings.candidates_per_level,
    )
    found = postprocess(selected, letterbox, settings)

    assert found.masks is not None
    different = [
        int((dense(mask) != one).sum()) for mask, one in zip(found.masks, expected, strict=True)
    ]
    assert max(different) <= 5


@pytest.mark.parity
def test_postprocess__rotated_boxes_are_scaled_as_the_reference_scales_them(shared_folder):
    geometry = np.load(shared_folder / "reference/golden/units/geometry.npz")
    letterbox = Letterbox(1000, 1000, 1.5, 1.45, 1500, 1450)

    found = postprocess(candidates(geometry["rboxes"]), letterbox, EVERYTHING)

    expected = geometry["rboxes_rescaled_by_1over1p5_1over1p45"]
    np.testing.assert_allclose(found.rotated_boxes, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parity
def test_postprocess__serving_regularises_rotated_boxes_as_the_reference(shared_folder):
    geometry = np.load(shared_folder / "reference/golden/units/geometry.npz")
    settings = replace(EVERYTHING, clip_to_image=True)

    found = postprocess(candidates(geometry["rboxes"]), letterbox_of(400, 400, 400, 400), settings)

    expected = geometry["rboxes_regularized_le90"]
    np.testing.assert_allclose(found.rotated_boxes, expected, rtol=1e-6, atol=1e-6)


def test_select_candidates__takes_every_class_of_a_prior_above_the_threshold():
    logits = np.array([[0.0, -9.0, 2.0], [1.0, -9.0, -9.0]], np.float32)
    boxes = np.arange(12, dtype=np.float32).reshape(4, 3)
    priors = np.array([[0, 0, 8], [8, 0, 8], [0, 0, 16]], np.float32)

    selected = select_candidates(DenseOutputs(logits, boxes, priors), 0.5, 10)

    # The score of logit 0 is 0.5, which is not above it.
    assert selected.labels.tolist() == [0, 1]
    assert selected.priors is not None
    assert selected.priors.tolist() == [[0, 0, 16], [0, 0, 8]]
    assert selected.boxes.tolist() == [[2, 5, 8, 11], [0, 3, 6, 9]]
    np.testing.assert_allclose(selected.scores, 1 / (1 + np.exp([-2.0, -1.0])), rtol=1e-6)


def test_select_candidates__takes_the_best_of_each_level():
    logits = np.array([[1, 3, 2, -1, -3, -2]], np.float32)
    priors = np.array([[0, 0, 8], [8, 0, 8], [0, 8, 8], [0, 0, 16], [16, 0, 16], [0, 0, 32]])
    dense = DenseOutputs(logits, np.zeros((4, 6), np.float32), priors.astype(np.float32))

    selected = select_candidates(dense, 0, 2)

    assert selected.priors is not None
    taken = [[8, 0, 8], [0, 8, 8], [0, 0, 16], [0, 0, 32], [16, 0, 16]]
    assert selected.priors.tolist() == taken


def test_select_candidates__equal_scores_keep_the_order_of_levels_priors_and_classes():
    priors = np.array([[0, 0, 8], [8, 0, 8], [0, 0, 16]], np.float32)
    dense = DenseOutputs(np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32), priors)

    selected = select_candidates(dense, 0.1, 3)

    assert selected.priors is not None
    places = zip(selected.priors[:, 0], selected.priors[:, 2], selected.labels, strict=True)
    assert list(places) == [(0, 8, 0), (0, 8, 1), (8, 8, 0), (0, 16, 0), (0, 16, 1)]


def test_select_candidates__extreme_logits_give_scores_without_a_warning():
    logits = np.array([[-1e4, 1e4, -90]], np.float32)
    priors = np.array([[0, 0, 8], [8, 0, 8], [16, 0, 8]], np.float32)

    selected = select_candidates(DenseOutputs(logits, np.zeros((4, 3), np.float32), priors), 0.5, 9)

    assert selected.scores.tolist() == [1]


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("settings", [EVERYTHING, SERVING_SETTINGS["detect"]])
def test_postprocess__of_no_candidates_is_empty(columns, settings):
    found = postprocess(candidates(np.zeros((0, columns))), LETTERBOX, settings)

    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert (found.rotated_boxes is None) == (columns == 4)
    assert found.masks is None


def test_postprocess__of_no_instances_has_no_masks():
    found = postprocess(instance_candidates(np.zeros((0, 4))), LETTERBOX, EVERYTHING)

    assert found.masks == []


def test_postprocess__maps_boxes_to_the_original_image():
    found = postprocess(candidates([[20, 40, 120, 160]]), LETTERBOX, EVERYTHING)

    assert found.boxes_xyxy.tolist() == [[10, 20, 60, 80]]
    assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == np.int32


def test_postprocess__a_score_at_the_threshold_does_not_count():
    boxes = [[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20]]
    settings = replace(EVERYTHING, score_threshold=0.5)

    found = postprocess(candidates(boxes, scores=[0.6, 0.5, 0.4]), LETTERBOX, settings)

    assert found.scores.tolist() == [np.float32(0.6)]


def test_postprocess__boxes_without_area_are_dropped():
    boxes = [[10, 10, 10, 50], [10, 10, 50, 10], [50, 50, 10, 10], [10, 10, 50, 50]]
    rotated = [[10, 10, 0, 5, 0], [10, 10, 5, 0, 0], [10, 10, -5, -5, 0], [10, 10, 5, 5, 0]]

    assert len(postprocess(candidates(boxes), LETTERBOX, EVERYTHING)) == 1
    assert len(postprocess(candidates(rotated), LETTERBOX, EVERYTHING)) == 1


def test_postprocess__keeps_the_best_of_overlapping_boxes_of_a_class():
    boxes = [[0, 0, 100, 100], [0, 0, 100, 96], [0, 0, 100, 100], [200, 0, 300, 100]]
    settings = replace(EVERYTHING, iou_threshold=0.5)

    found = postprocess(candidates(boxes, labels=[0, 0, 1, 0]), LETTERBOX, settings)
    agnostic = postprocess(
        candidates(boxes, labels=[0, 0, 1, 0]), LETTERBOX, replace(settings, class_agnostic=True)
    )

    assert found.labels.tolist() == [0, 1, 0]
    assert agnostic.labels.tolist() == [0, 0]


def test_postprocess__max_detections_keeps_the_best():
    boxes = [[40 * place, 0, 40 * place + 20, 20] for place in range(5)]
    settings = replace(EVERYTHING, max_detections=2)

    found = postprocess(candidates(boxes, scores=[0.1, 0.5, 0.3, 0.9, 0.2]), LETTERBOX, settings)

    assert found.boxes_xyxy[:, 0].tolist() == [60, 20]


def test_postprocess__equal_scores_keep_the_order_of_the_candidates():
    boxes = [[40 * place, 0, 40 * place + 20, 20] for place in range(5)]

    found = postprocess(candidates(boxes, scores=[0.5] * 5), LETTERBOX, EVERYTHING)

    assert found.boxes_xyxy[:, 0].tolist() == [0, 20, 40, 60, 80]


def test_postprocess__classes_are_chosen_before_suppression():
    # Without the filter the box of class 0 strikes out that of class 1.
    overlapping = candidates(
        [[0, 0, 100, 100], [0, 0, 100, 98], [0, 100, 50, 150]], labels=[0, 1, 2]
    )
    settings = replace(EVERYTHING, iou_threshold=0.5, class_agnostic=True)

    both = postprocess(overlapping, LETTERBOX, settings)
    filtered = postprocess(overlapping, LETTERBOX, replace(settings, class_ids=(1, 7)))
    none = postprocess(overlapping, LETTERBOX, replace(settings, class_ids=()))

    assert both.labels.tolist() == [0, 2]
    assert filtered.labels.tolist() == [1]
    assert none.labels.tolist() == []


def test_postprocess__boxes_are_clipped_to_the_image_and_dropped_outside_it():
    # The picture ends at (400, 200) of the input; what lies below is padding.
    boxes = [[300, 100, 440, 260], [100, 200, 200, 300], [-20, -40, 40, 60], [400, 0, 500, 60]]
    settings = replace(EVERYTHING, clip_to_image=True)

    clipped = postprocess(candidates(boxes), LETTERBOX, settings)
    published = postprocess(candidates(boxes), LETTERBOX, EVERYTHING)

    assert clipped.boxes_xyxy.tolist() == [[150, 50, 200, 100], [0, 0, 20, 30]]
    assert published.boxes_xyxy.tolist() == [
        [150, 50, 220, 130],
        [50, 100, 100, 150],
        [-10, -20, 20, 30],
        [200, 0, 250, 30],
    ]


def test_postprocess__a_rotated_box_comes_with_the_upright_box_around_it():
    box = [200, 100, 80, 40, 0.5]

    found = postprocess(candidates([box]), LETTERBOX, EVERYTHING)

    assert found.rotated_boxes is not None
    np.testing.assert_allclose(found.rotated_boxes, [[100, 50, 40, 20, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, enclosing_boxes(found.rotated_boxes), rtol=1e-6)


def test_postprocess__of_a_rotated_box_only_the_upright_box_is_clipped():
    settings = replace(EVERYTHING, clip_to_image=True)
    boxes = [[390, 20, 80, 40, 0.0], [600, 100, 40, 40, 0.3]]

    found = postprocess(candidates(boxes), LETTERBOX, settings)

    np.testing.assert_allclose(found.rotated_boxes, [[195, 10, 40, 20, 0]], atol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy, [[175, 0, 200, 20]], atol=1e-5)


def test_postprocess__serving_gives_rotated_boxes_one_form():
    angles = np.concatenate([np.linspace(-4, 4, 41), np.array([-2, -1, 1, 2, 3]) * np.pi / 2])
    boxes = [
        [200, 100, width, height, angle]
        for angle in angles
        for width, height in ((80, 30), (30, 80), (50, 50))
    ]
    labels = range(len(boxes))
    settings = replace(EVERYTHING, clip_to_image=True)

    raw = postprocess(candidates(boxes, labels=labels), LETTERBOX, EVERYTHING).rotated_boxes
    found = postprocess(candidates(boxes, labels=labels), LETTERBOX, settings).rotated_boxes

    assert raw is not None
    assert found is not None
    np.testing.assert_allclose(rotated_iou(raw, found), 1, atol=1e-5)
    assert (found[:, 2] >= found[:, 3]).all()
    angle = found[:, 4].astype(np.float64)
    assert ((-np.pi / 2 <= angle) & (angle < np.pi / 2)).all()


def test_postprocess__masks_fill_the_box_or_the_image():
    boxes = [[20, 40, 120, 161], [0, 0, 40, 40]]
    settings = replace(EVERYTHING, crop_masks_to_boxes=True)

    cropped = postprocess(instance_candidates(boxes), LETTERBOX, settings).masks
    whole = postprocess(instance_candidates(boxes), LETTERBOX, EVERYTHING).masks

    assert cropped is not None
    assert whole is not None
    # The last row is touched by half.
    assert [(mask.x, mask.y, mask.crop.shape) for mask in cropped] == [
        (10, 20, (61, 50)),
        (0, 0, (20, 20)),
    ]
    assert [mask.crop.shape for mask in whole] == [(100, 200)] * 2


def test_postprocess__masks_belong_to_the_boxes_that_are_kept():
    boxes = [[0, 0, 100, 100], [0, 0, 100, 98], [200, 0, 300, 100]]
    settings = replace(EVERYTHING, iou_threshold=0.5, crop_masks_to_boxes=True)

    found = postprocess(instance_candidates(boxes), LETTERBOX, settings)

    assert found.masks is not None
    assert [mask.x for mask in found.masks] == found.boxes_xyxy[:, 0].tolist() == [0, 100]


def test_postprocess__masks_may_be_left_out():
    found = postprocess(
        instance_candidates([[0, 0, 40, 40]]), LETTERBOX, EVERYTHING, with_masks=False
    )

    assert len(found) == 1
    assert found.masks is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", -0.1),
        ("score_threshold", 1.1),
        ("score_threshold", float("nan")),
        ("iou_threshold", -0.1),
        ("iou_threshold", 1.1),
        ("mask_threshold", 0),
        ("mask_threshold", 1),
        ("max_detections", 0),
        ("candidates_per_level", 0),
        ("class_ids", (1, -1)),
    ],
)
def test_settings__out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        replace(EVERYTHING, **{name: value})


def test_published_settings__are_those_of_the_published_configurations():
    assert {
        task: (
            settings.score_threshold,
            settings.iou_threshold,
            settings.max_detections,
            settings.candidates_per_level,
            settings.crop_masks_to_boxes,
            settings.clip_to_image,
        )
        for task, settings in PUBLISHED_SETTINGS.items()
    } == {
        "detect": (0.001, 0.65, 300, 30000, False, False),
        "instance": (0.05, 0.6, 100, 1000, False, False),
        "rotated": (0.05, 0.1, 2000, 2000, False, False),
    }


def test_postprocess__does_not_import_torch():
    code = "import sys, model.postprocess; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
