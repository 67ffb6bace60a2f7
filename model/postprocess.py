"""From what a network found in its input to detections in the original image, in numpy.

Serving, evaluation and the tools all come through `postprocess`. It takes candidates: either one
row of the exported graph's outputs, or what `select_candidates` takes from every prior's
predictions, which is how the published evaluation selects. Order, comparisons and rounding follow
the published post-processing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.config import Task
from model.mask_assembly import assemble_masks
from model.masks import InstanceMask
from model.nms import Indices, nms, rotated_nms
from model.preprocess import Letterbox
from model.rotated_iou import enclosing_boxes

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DenseOutputs:
    """Every prior's predictions for one image. P counts the priors of all levels.

    `logits` [C, P]; `boxes` [4, P] xyxy, or [5, P] (cx, cy, w, h, angle in radians), decoded, in
    pixels of the input (xyxy: clamped to it); `priors` [P, 3] x, y, stride, level by level, row by
    row. Instance models also have `kernels` [169, P] and `mask_features` [8, h, w].
    """

    logits: Floats
    boxes: Floats
    priors: Floats
    kernels: Floats | None = None
    mask_features: Floats | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Selected (prior, class) pairs of one image, best first, before suppression.

    `boxes` [K, 4] or [K, 5] in pixels of the input, `scores` [K], `labels` [K] int32. Instance
    models also have `kernels` [K, 169], `priors` [K, 3] and `mask_features` [8, h, w].
    """

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int32]
    kernels: Floats | None = None
    priors: Floats | None = None
    mask_features: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class PostprocessSettings:
    """What is kept of the candidates, and in which form.

    Scores must be above `score_threshold`; a box falls when its overlap with a better one is above
    `iou_threshold`; mask pixels are on above `mask_threshold`. `class_ids` names the only classes
    of interest, chosen before suppression. `candidates_per_level` concerns `select_candidates`
    alone: the exported graph has selected already.

    `crop_masks_to_boxes` and `clip_to_image` depart from the published numbers: with them nothing
    reaches outside its box or outside the image, what lies outside altogether is dropped, and
    rotated boxes have w >= h and an angle in [-pi/2, pi/2).

    Raises ValueError for values out of range.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int
    class_agnostic: bool = False
    mask_threshold: float = 0.5
    crop_masks_to_boxes: bool = True
    clip_to_image: bool = True
    class_ids: tuple[int, ...] | None = None
    candidates_per_level: int = 1000

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.mask_threshold < 1:
            raise ValueError(
                f"mask_threshold must lie between 0 and 1, both excluded, got {self.mask_threshold}"
            )
        for name in ("max_detections", "candidates_per_level"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.class_ids is not None and min(self.class_ids, default=0) < 0:
            raise ValueError(f"class_ids must not be negative, got {self.class_ids}")


#: The settings with which the published figures were reached, by task.
PUBLISHED_SETTINGS: Mapping[Task, PostprocessSettings] = {
    "detect": PostprocessSettings(
        score_threshold=0.001,
        iou_threshold=0.65,
        max_detections=300,
        crop_masks_to_boxes=False,
        clip_to_image=False,
        candidates_per_level=30000,
    ),
    "instance": PostprocessSettings(
        score_threshold=0.05,
        iou_threshold=0.6,
        max_detections=100,
        crop_masks_to_boxes=False,
        clip_to_image=False,
        candidates_per_level=1000,
    ),
    "rotated": PostprocessSettings(
        score_threshold=0.05,
        iou_threshold=0.1,
        max_detections=2000,
        crop_masks_to_boxes=False,
        clip_to_image=False,
        candidates_per_level=2000,
    ),
}

#: What a user of a service wants by default: few false alarms, nothing outside the image.
SERVING_SETTINGS: Mapping[Task, PostprocessSettings] = {
    task: replace(
        published,
        score_threshold=0.3,
        max_detections=min(published.max_detections, 300),
        crop_masks_to_boxes=True,
        clip_to_image=True,
        candidates_per_level=1000,
    )
    for task, published in PUBLISHED_SETTINGS.items()
}


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first, in pixels of the original image.

    `boxes_xyxy` [M, 4], of a rotated box the upright box around it; `scores` [M]; `labels` [M]
    int32; `rotated_boxes` [M, 5] (cx, cy, w, h, angle in radians, clockwise positive with y
    down) from rotated models; `masks`, M of them, from instance models if asked for.
    """

    boxes_xyxy: Floats
    scores: Floats
    labels: NDArray[np.int32]
    rotated_boxes: Floats | None = None
    masks: list[InstanceMask] | None = None

    def __len__(self) -> int:
        return len(self.scores)


def select_candidates(
    dense: DenseOutputs, score_threshold: float, candidates_per_level: int
) -> Candidates:
    """The pairs (prior, class) that score above the threshold, at most so many of each level.

    A prior may be selected with several classes. Equal scores: first level, prior, class first.
    """
    num_classes = len(dense.logits)
    scores = _sigmoid(dense.logits.T.reshape(-1))
    level_starts = np.flatnonzero(np.diff(dense.priors[:, 2], prepend=0)) * num_classes
    chosen: list[Indices] = []
    for start, stop in zip(level_starts, [*level_starts[1:], len(scores)], strict=True):
        pairs = start + np.flatnonzero(scores[start:stop] > score_threshold)
        best = np.argsort(-scores[pairs], kind="stable")[:candidates_per_level]
        chosen.append(pairs[best])
    pairs = np.concatenate(chosen)
    pairs = pairs[np.argsort(-scores[pairs], kind="stable")]
    priors, labels = np.divmod(pairs, num_classes)
    return Candidates(
        boxes=dense.boxes.T[priors],
        scores=scores[pairs],
        labels=labels.astype(np.int32),
        kernels=None if dense.kernels is None else dense.kernels.T[priors],
        priors=dense.priors[priors],
        mask_features=dense.mask_features,
    )


def postprocess(
    candidates: Candidates,
    letterbox: Letterbox,
    settings: PostprocessSettings,
    *,
    with_masks: bool = True,
    before_masks: Callable[[int], None] | None = None,
) -> Detections:
    """The detections among `candidates`, mapped back to the original image.

    As published, boxes are mapped to the original image first, those without area are dropped,
    and suppression follows there. `with_masks=False` leaves out the masks of an instance model.
    `before_masks` is told how many bytes these will take at most, and may raise.
    """
    rotated = candidates.boxes.shape[1] == 5
    boxes = _to_image(candidates.boxes, letterbox)
    upright = enclosing_boxes(boxes).astype(np.float32) if rotated else boxes
    sides = boxes[:, 2:4] if rotated else boxes[:, 2:] - boxes[:, :2]
    eligible = (sides > 0).all(axis=1) & (candidates.scores > settings.score_threshold)
    if settings.class_ids is not None:
        eligible &= np.isin(candidates.labels, settings.class_ids)
    if settings.clip_to_image:
        eligible &= _inside(upright, letterbox)

    places = np.flatnonzero(eligible)
    suppress = rotated_nms if rotated else nms
    kept = places[
        suppress(
            boxes[places],
            candidates.scores[places],
            candidates.labels[places],
            settings.iou_threshold,
            class_agnostic=settings.class_agnostic,
            max_kept=settings.max_detections,
        )
    ]
    with_masks = with_masks and candidates.kernels is not None
    if with_masks and before_masks is not None:
        before_masks(_mask_bytes(upright[kept], letterbox, settings))
    detections = Detections(
        boxes_xyxy=upright[kept],
        scores=candidates.scores[kept],
        labels=candidates.labels[kept],
        rotated_boxes=boxes[kept] if rotated else None,
        masks=_masks(candidates, kept, upright[kept], letterbox, settings) if with_masks else None,
    )
    return _clipped(detections, letterbox) if settings.clip_to_image else detections


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):  # an infinite power is right: the score is 0
        return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)


def _to_image(boxes: Floats, letterbox: Letterbox) -> Floats:
    """Boxes [K, 4] or [K, 5] in pixels of the input, in pixels of the original image."""
    factor_x, factor_y = np.float32(1 / letterbox.scale_x), np.float32(1 / letterbox.scale_y)
    if boxes.shape[1] == 4:
        return boxes * np.array([factor_x, factor_y, factor_x, factor_y])
    # As published; where the two factors differ (by rounding alone) a rectangle is none any more,
    # and this is one of several that come near it.
    cx, cy, width, height, angle_rad = boxes.T
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.stack(
        [
            cx * factor_x,
            cy * factor_y,
            width * np.hypot(factor_x * cos, factor_y * sin),
            height * np.hypot(factor_x * sin, factor_y * cos),
            np.arctan2(factor_x * sin, factor_y * cos),
        ],
        axis=1,
    )


def _inside(boxes_xyxy: Floats, letterbox: Letterbox) -> NDArray[np.bool_]:
    """Which boxes [K, 4] share some area with the original image."""
    left, top, right, bottom = boxes_xyxy.T
    across = (right > 0) & (left < letterbox.image_width)
    return across & (bottom > 0) & (top < letterbox.image_height)


def _mask_bytes(boxes_xyxy: Floats, letterbox: Letterbox, settings: PostprocessSettings) -> int:
    """Bytes of masks, one for each pixel of its box or of the image."""
    limits = np.array([letterbox.image_width, letterbox.image_height], np.float64)
    if not settings.crop_masks_to_boxes:
        return len(boxes_xyxy) * int(limits.prod())
    low = np.floor(np.clip(boxes_xyxy[:, :2], 0, limits))
    high = np.ceil(np.clip(boxes_xyxy[:, 2:], 0, limits))
    return int(np.maximum(high - low, 0).prod(axis=1).sum())


def _masks(
    candidates: Candidates,
    kept: Indices,
    boxes_xyxy: Floats,
    letterbox: Letterbox,
    settings: PostprocessSettings,
) -> list[InstanceMask]:
    assert candidates.kernels is not None
    assert candidates.priors is not None
    assert candidates.mask_features is not None
    return assemble_masks(
        candidates.kernels[kept],
        candidates.priors[kept],
        candidates.mask_features,
        boxes_xyxy,
        letterbox,
        settings.mask_threshold,
        settings.crop_masks_to_boxes,
    )


def _clipped(detections: Detections, letterbox: Letterbox) -> Detections:
    """Upright boxes cut at the image's border, rotated boxes in the one form of le90."""
    limits = np.array([letterbox.image_width, letterbox.image_height] * 2, np.float32)
    rotated = detections.rotated_boxes
    return replace(
        detections,
        boxes_xyxy=np.clip(detections.boxes_xyxy, 0, limits),
        rotated_boxes=None if rotated is None else _le90(rotated),
    )


def _le90(boxes: Floats) -> Floats:
    """The same rotated boxes [M, 5] with w >= h and the angle in [-pi/2, pi/2)."""
    cx, cy, width, height, angle_rad = boxes.astype(np.float64).T
    angle_rad = np.where(width < height, angle_rad + np.pi / 2, angle_rad)
    angle_rad = (angle_rad + np.pi / 2) % np.pi - np.pi / 2
    # In float32 the ends would round to just outside.
    inside = np.nextafter(np.float32(np.pi / 2), np.float32(0))
    angle_rad = np.clip(angle_rad, -inside, inside)
    sides = np.maximum(width, height), np.minimum(width, height)
    return np.stack([cx, cy, *sides, angle_rad], axis=1).astype(np.float32)
