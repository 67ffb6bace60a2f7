"""Names for the images of a new set, which lie in one folder there, whatever folders they are in.

The folders that an image lies in, within its split, become part of its name: `left/001.jpg` is
`left-001.jpg` then.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

#: Changes that are counted.
IN_FOLDERS = "images in folders of their own, named after them"
SAME_NAMES = "images of a name that is taken, numbered"


class FileNames:
    """Gives each image of a split a name, whose stem no other one has."""

    def __init__(self, folders: Sequence[Path], losses: Counter[str]) -> None:
        self._folders = sorted(folders, key=lambda folder: -len(folder.parts))
        self._losses = losses
        self._stems: set[str] = set()

    def name(self, path: Path) -> str:
        """The new name of the image at `path`."""
        folder = next((each for each in self._folders if path.is_relative_to(each)), path.parent)
        parts = [part for part in path.relative_to(folder).parts if part != ".."]
        self._losses[IN_FOLDERS] += len(parts) > 1
        wanted = Path(_readable("-".join(parts)).lstrip("."))
        stem, number = wanted.stem, 1
        # File systems may not tell large letters from small ones.
        while stem.casefold() in self._stems:
            number += 1
            stem = f"{wanted.stem}-{number}"
        self._losses[SAME_NAMES] += number > 1
        self._stems.add(stem.casefold())
        return f"{stem}{wanted.suffix}"


def _readable(name: str) -> str:
    """The name in characters that text files can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
