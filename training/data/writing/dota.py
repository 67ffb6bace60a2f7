"""Writes DOTA's text files: four corners, the class, whether it is difficult.

Coordinates are rounded to thousandths of a pixel. Nothing lists the classes, so that their order is
the readers' affair.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.data.formats.dota import class_order
from training.data.formats.layouts import Split
from training.data.formats.records import Category, ImageRecord
from training.data.writing.base import write_lines
from training.data.writing.forms import corners_of, is_crowd

#: What is lost, or changed.
BLANKS = "classes with blanks in their names, written with '-' instead"
ORDER = "orders of classes, which files of this format do not keep: they are sorted when read"
UNUSED = "classes without an instance, which files of this format do not list"


class DotaWriter:
    """Writes `SPLIT/labelTxt/*.txt`. Raises ValueError where two classes get the same name."""

    is_upright = True

    def __init__(self, folder: Path, categories: Sequence[Category], losses: Counter[str]) -> None:
        self._folder = folder
        self._losses = losses
        self._names = {category.name: "-".join(category.name.split()) for category in categories}
        self._met: set[str] = set()
        for name, count in Counter(self._names.values()).items():
            if count > 1:
                raise ValueError(
                    f"two classes would both be called '{name}' without blanks; rename one"
                )
        losses[BLANKS] += sum(name != plain for name, plain in self._names.items())

    def image_folder(self, split: Split) -> Path:
        """Where the images of a split belong."""
        return self._folder / split / "images"

    def add(self, split: Split, image: ImageRecord, name: str) -> None:
        """Write the label file of an image."""
        lines: list[str] = []
        for instance in image.instances:
            if is_crowd(instance, self._losses):
                continue
            corners = corners_of(instance, image, self._losses)
            if corners is None:
                continue
            numbers = " ".join(f"{value:.3f}" for value in corners.ravel().tolist())
            self._met.add(self._names[instance.category])
            lines.append(f"{numbers} {self._names[instance.category]} {int(instance.is_difficult)}")
        write_lines(self._folder / split / "labelTxt" / f"{Path(name).stem}.txt", lines)

    def finish(self) -> None:
        """Count what the files do not say of the classes."""
        ours = [name for name in self._names.values() if name in self._met]
        self._losses[UNUSED] += len(self._names) - len(ours)
        self._losses[ORDER] += ours != [category.name for category in class_order(self._met)]
