"""Writes YOLO's text files, with boxes, polygons or the corners of rotated boxes, and `data.yaml`.

Numbers are shares of the image's sides, rounded to millionths: to a two-hundredth of a pixel in an
image of 10,000.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from training.data.formats.layouts import Split
from training.data.formats.records import Category, ImageRecord, InstanceRecord
from training.data.writing.base import write_lines
from training.data.writing.forms import Points, box_of, corners_of, is_crowd, polygon_of

Form = Literal["box", "polygon", "corners"]

#: What is lost, or changed.
CLIPPED = "boxes or outlines that reach outside of their image, clipped"
OUTSIDE = "instances outside of their image, left out"
DIFFICULT = "difficult instances, which are like any other now"

#: Corners may lie outside of the image, but not as far as this share of it.
_LARGEST_SHARE = 2


class YoloWriter:
    """Writes `labels/SPLIT/*.txt`, every line in the same form."""

    is_upright = True

    def __init__(
        self, folder: Path, categories: Sequence[Category], losses: Counter[str], form: Form
    ) -> None:
        self._folder = folder
        self._names = [category.name for category in categories]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._losses = losses
        self._form = form
        self._splits: dict[Split, str] = {}

    def image_folder(self, split: Split) -> Path:
        """Where the images of a split belong."""
        return self._folder / "images" / split

    def add(self, split: Split, image: ImageRecord, name: str) -> None:
        """Write the label file of an image."""
        self._splits[split] = f"images/{split}"
        lines: list[str] = []
        for instance in image.instances:
            shares = self._shares(instance, image)
            if shares is not None:
                self._losses[DIFFICULT] += instance.is_difficult
                numbers = " ".join(f"{value:.6f}" for value in shares.ravel().tolist())
                lines.append(f"{self._numbers[instance.category]} {numbers}")
        write_lines(self._folder / "labels" / split / f"{Path(name).stem}.txt", lines)

    def finish(self) -> None:
        """Write `data.yaml`."""
        content = {**self._splits, "names": dict(enumerate(self._names))}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)
        # Not splitlines: names may hold what it takes for the end of a line.
        write_lines(self._folder / "data.yaml", text.rstrip("\n").split("\n"))

    def _shares(self, instance: InstanceRecord, image: ImageRecord) -> Points | None:
        """What stands in the line of an instance; None where it has none."""
        if is_crowd(instance, self._losses):
            return None
        if self._form == "corners":
            corners = corners_of(instance, image, self._losses)
            return None if corners is None else self._not_too_far(_in_shares(corners, image))
        if self._form == "polygon":
            points = polygon_of(instance, image, self._losses)
        else:
            points = box_of(instance, self._losses)
        points = None if points is None else self._clipped(_in_shares(points, image))
        if points is None or self._form == "polygon":
            return points
        return np.concatenate([points.mean(axis=0), points[1] - points[0]])

    def _clipped(self, shares: Points) -> Points | None:
        clipped = np.clip(shares, 0, 1)
        if (np.ptp(clipped, axis=0) <= 0).any() and (np.ptp(shares, axis=0) > 0).all():
            self._losses[OUTSIDE] += 1
            return None
        # Less than what is written of a number is no clipping.
        self._losses[CLIPPED] += bool((abs(clipped - shares) > 1e-6).any())
        return clipped

    def _not_too_far(self, shares: Points) -> Points | None:
        is_too_far = bool((abs(shares) > _LARGEST_SHARE).any())
        self._losses[OUTSIDE] += is_too_far
        return None if is_too_far else shares


def _in_shares(points: Points, image: ImageRecord) -> Points:
    return points / np.array([image.width, image.height], np.float64)
