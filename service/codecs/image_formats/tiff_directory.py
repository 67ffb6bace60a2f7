"""The first image file directory of TIFF 6.0, which is also the layout of EXIF."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

_ORIENTATION = 274

# Bytes of one value of each TIFF type, 1 (BYTE) to 12 (DOUBLE).
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I"}


@dataclass(frozen=True)
class Entry:
    """One tag: the type, how many values, where they lie in the file, and its twelve bytes."""

    type_id: int
    count: int
    position: int
    raw: bytes

    @property
    def end(self) -> int:
        """The position after the last value."""
        return self.position + self.count * _TYPE_SIZES[self.type_id]


@dataclass(frozen=True)
class Directory:
    """The entries by tag; `byte_order` is that of `struct`."""

    data: bytes
    byte_order: str
    entries: dict[int, Entry]

    def integers(
        self, tag: int, default: tuple[int, ...] = (), *, most: int = 1
    ) -> tuple[int, ...]:
        """The first unsigned values of a tag, at most so many of them.

        `default` where it is absent, empty or of another type.
        """
        entry = self.entries.get(tag)
        code = _INTEGER_TYPES.get(entry.type_id) if entry else None
        if entry is None or code is None or entry.count == 0 or entry.end > len(self.data):
            return default
        layout = f"{self.byte_order}{min(entry.count, most)}{code}"
        return struct.unpack_from(layout, self.data, entry.position)

    def integer(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        return self.integers(tag, (default,))[0]

    def longest(self, tags: Iterable[int]) -> int:
        """How many values that of these tags has that has most."""
        return max((self.entries[tag].count for tag in tags if tag in self.entries), default=0)


def read_directory(data: bytes) -> Directory:
    """Read the first directory; its values stay unread until asked for.

    Raises `struct.error` where the file ends too early or is no TIFF.
    """
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if byte_order is None:
        raise struct.error("no TIFF header")
    (start,) = struct.unpack_from(f"{byte_order}I", data, 4)
    (count,) = struct.unpack_from(f"{byte_order}H", data, start)
    entries: dict[int, Entry] = {}
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, type_id, num_values, offset = struct.unpack_from(f"{byte_order}HHII", data, position)
        if type_id not in _TYPE_SIZES:
            continue
        if num_values * _TYPE_SIZES[type_id] <= 4:
            offset = position + 8
        entries[tag] = Entry(type_id, num_values, offset, data[position : position + 12])
    return Directory(data, byte_order, entries)


def orientation_of(directory: Directory) -> int:
    """The orientation, 1 to 8; 1 where there is none or nonsense."""
    orientation = directory.integer(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, with or without its `Exif` prefix; 1 if it is damaged.

    Viewers show a picture with damaged metadata, so this is no error.
    """
    try:
        return orientation_of(read_directory(exif.removeprefix(b"Exif\0\0")))
    except struct.error:
        return 1
