"""May a model run in a faster arithmetic? Decided by evidence, the best that there is.

First by evaluations on record: a manifest that holds the model's average precision in both
arithmetics, on the same data, says what the difference costs. Else by a trial picture that both
have run: what float32 is confident of, the other must find too. That shows a breakdown (overflow,
a broken kernel), not a loss of half a percent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.manifest import Evaluation
from service.runtime.base import Outputs

#: The exact arithmetic, as the settings and descriptions of runtimes name it.
EXACT = "f32"

#: What an evaluation on record may lose, as a fraction: 0.005 is half a point of AP.
MAX_AP_LOSS = 0.005

#: Candidates of the trial picture that are compared: so many of the best, with at least this score.
NUM_COMPARED = 50
MIN_SCORE = 0.15

#: How far the same candidate may be off, and how many must be found. No model was trained for this
#: picture, so scores are shakier than in use: in bfloat16 a detector of persons that loses nothing
#: in AP is off by up to 0.05 in score and 0.06 of the box's side.
MAX_SCORE_ERROR = 0.1
MAX_BOX_ERROR = 0.15
MAX_MASK_ERROR = 0.2
MIN_SHARE_FOUND = 0.8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """Whether the faster arithmetic is taken, and why, for people."""

    accepted: bool
    reason: str


def verdict_on_record(
    evaluations: Iterable[Evaluation], engine: str, precision: str
) -> Verdict | None:
    """What evaluations of `engine` ("OpenVINO") in `precision` and in f32 say; None without both.

    Compared are those of the same data and settings, by every metric whose name ends in `_ap`; the
    newest of a kind counts.
    """
    by_subject: dict[tuple[object, ...], dict[str, Mapping[str, float]]] = {}
    for each in evaluations:
        if each.runtime.startswith(engine):
            subject = (each.dataset, each.split, each.num_images, each.settings, each.patches)
            computed_in = each.runtime.rpartition(" ")[2]
            by_subject.setdefault(subject, {})[computed_in] = each.metrics
    losses = {
        name: exact[name] - metrics[precision][name]
        for metrics in by_subject.values()
        if precision in metrics and (exact := metrics.get(EXACT)) is not None
        for name in exact
        if name.endswith("_ap") and name in metrics[precision]
    }
    if not losses:
        return None
    worst = max(losses, key=lambda name: losses[name])
    lost = f"{worst} {-losses[worst]:+.4f} against {EXACT} in the evaluations on record"
    if losses[worst] <= MAX_AP_LOSS:
        return Verdict(True, f"{precision}: {lost}")
    return Verdict(False, f"{EXACT}: {precision} has {lost}")


def verdict_by_picture(exact: Outputs, fast: Outputs, precision: str) -> Verdict:
    """What the outputs [1, ...] of both for the trial picture say."""
    if not all(np.isfinite(values).all() for values in fast.values()):
        return Verdict(False, f"{EXACT}: {precision} goes out of its range")
    one, other = (_Candidates.of(outputs) for outputs in (exact, fast))
    compared = [
        index
        for index in range(min(NUM_COMPARED, len(one.scores)))
        # One that only just made its way among the candidates here may miss it there.
        if one.scores[index] >= max(MIN_SCORE, other.scores[-1] + MAX_SCORE_ERROR)
    ]
    alike = sum(_is_found(one, index, other) for index in compared)
    told = f"{alike} of {len(compared)} candidates of the trial picture as in {EXACT}"
    if alike < MIN_SHARE_FOUND * len(compared):
        return Verdict(False, f"{EXACT}: {precision} has only {told}")
    if (off := _mask_features_error(exact, fast)) > MAX_MASK_ERROR:
        return Verdict(False, f"{EXACT}: {precision} has mask features that are off by {off:.0%}")
    if not compared:
        told = "the trial picture shows the model nothing, and no number is out of range"
    return Verdict(True, f"{precision}: {told}")


def trial_picture(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 BGR [1, height, width, 3]: shapes of several sizes on a clouded ground."""
    generator = np.random.default_rng(0)
    clouds = generator.integers(60, 200, (9, 12, 3), np.uint8)
    image = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    side = min(height, width)

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * width), round(y * height)

    cv2.circle(image, at(0.25, 0.25), side // 8, (40, 40, 220), -1)
    cv2.rectangle(image, at(0.5, 0.12), at(0.75, 0.32), (220, 160, 40), -1)
    triangle = np.array([at(0.12, 0.88), at(0.25, 0.5), at(0.38, 0.88)])
    cv2.fillPoly(image, [triangle], (60, 200, 60))
    cv2.ellipse(image, at(0.62, 0.62), (side // 5, side // 9), 30, 0, 360, (230, 230, 230), -1)
    cv2.rectangle(image, at(0.87, 0.75), at(0.94, 0.94), (20, 20, 20), -1)
    grain = generator.normal(0, 6, (height, width, 3))
    return np.clip(grain + image, 0, 255).astype(np.uint8)[None]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """One picture's, best first: `boxes` [k, 4] xyxy or [k, 5] rotated, kernels where it has."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.generic]
    kernels: Floats | None

    @classmethod
    def of(cls, outputs: Outputs) -> "_Candidates":
        boxes, scores = _floats(outputs, "boxes"), _floats(outputs, "scores")
        assert boxes is not None
        assert scores is not None
        return cls(boxes, scores, outputs["labels"][0], _floats(outputs, "kernels"))


def _floats(outputs: Outputs, name: str) -> Floats | None:
    return np.asarray(outputs[name][0], np.float32) if name in outputs else None


def _is_found(one: _Candidates, index: int, other: _Candidates) -> bool:
    """Whether `other` has a candidate like this: class, score, place, and its mask's kernel."""
    alike = (other.labels == one.labels[index]) & (
        np.abs(other.scores - one.scores[index]) <= MAX_SCORE_ERROR
    )
    alike &= _box_errors(one.boxes[index], other.boxes) <= MAX_BOX_ERROR
    if one.kernels is not None and other.kernels is not None:
        wanted = one.kernels[index]
        off = np.linalg.norm(other.kernels - wanted, axis=1)
        alike &= off <= MAX_MASK_ERROR * np.linalg.norm(wanted)
    return bool(alike.any())


def _box_errors(box: Floats, others: Floats) -> Floats:
    """How far boxes [k, 4 or 5] are from one: of its side (the mean of both), at the worst place.

    An angle counts as the way that the ends of the box move, and is the same after half a turn.
    """
    wide, high = box[2:4] if len(box) == 5 else box[2:4] - box[:2]
    side = max(float(np.sqrt(abs(wide * high))), 1.0)
    off = np.abs(others - box)
    if len(box) == 5:
        turned = np.minimum(off[:, 4] % np.pi, np.pi - off[:, 4] % np.pi)
        off[:, 4] = turned * abs(wide - high) / 2
    return off.max(axis=1) / side


def _mask_features_error(exact: Outputs, fast: Outputs) -> float:
    """Of the features that all masks are drawn from; 0 where the task has none."""
    wanted, got = _floats(exact, "mask_features"), _floats(fast, "mask_features")
    if wanted is None or got is None:
        return 0.0
    length = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(got - wanted)) / length if length > 0 else 0.0
