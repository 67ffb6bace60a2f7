"""What a caller may give as a picture, and the body that it travels in.

Files are sent from where they lie, a piece at a time and from the beginning at every attempt;
only what cannot be read twice (a pipe) is read into memory.
"""

import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, TypeAlias, cast, runtime_checkable

from service.client.options import Fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK_BYTES = 256 * 1024

#: How arrays are encoded: as they are, or ten times faster and smaller with slightly other pixels.
ArrayFormat = Literal["png", "jpeg"]


@runtime_checkable
class BinaryFile(Protocol):
    """What is open for reading bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


#: A path, the bytes of a file, an open file, or BGR pixels [h, w, 3] (grey [h, w]) as uint8.
Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | NDArray[np.uint8]"
)


@dataclass(frozen=True)
class FilePart:
    """Some bytes of a file, from `start` on."""

    open: Callable[[], AbstractContextManager[BinaryIO]]
    start: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes, read anew. Raises OSError when there are fewer than there were."""
        with self.open() as file:
            file.seek(self.start)
            missing = self.length
            while missing:
                chunk = file.read(min(missing, _CHUNK_BYTES))
                if not chunk:
                    raise OSError("the picture became shorter while it was sent")
                missing -= len(chunk)
                yield chunk


#: A part of a body.
Piece = bytes | FilePart


@dataclass(frozen=True)
class Body:
    """A request's body in pieces, and what its headers say of it."""

    content_type: str
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Bytes of all pieces."""
        return sum(
            len(piece) if isinstance(piece, bytes) else piece.length for piece in self.pieces
        )

    def chunks(self) -> Iterator[bytes]:
        """All bytes, in order."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from piece.chunks()


def raw_body(piece: Piece) -> Body:
    """One picture alone. The server sees from its first bytes what it is."""
    return Body("application/octet-stream", (piece,))


def form_body(pieces: Sequence[Piece], fields: Fields) -> Body:
    """Pictures as the parts `images` of a form, after the options as fields."""
    boundary = secrets.token_hex(16)
    parts: list[Piece] = []
    for name, value in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(f"{head}{value}\r\n".encode())
    for number, piece in enumerate(pieces):
        disposition = f'form-data; name="images"; filename="{number}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n"
        parts += [f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(), piece, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", tuple(parts))


def picture_piece(picture: Picture, array_format: ArrayFormat) -> Piece:
    """The bytes to send of what the caller gave.

    Raises TypeError for what is no picture, ValueError for an array of another kind, OSError for a
    file that cannot be read.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return _file_at(picture)
    if isinstance(picture, BinaryFile):
        return _open_file(picture)
    return _encoded(picture, array_format)


def _file_at(path: "str | os.PathLike[str]") -> Piece:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return file.read()
    return FilePart(lambda: open(path, "rb"), 0, status.st_size)


def _open_file(file: BinaryFile) -> Piece:
    if isinstance(file, io.TextIOBase):
        raise TypeError("the file is open as text; open it with mode 'rb'")
    if not isinstance(file, io.IOBase) or not file.seekable():
        return file.read()
    start = file.tell()
    length = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    return FilePart(lambda: nullcontext(file), start, length)  # pyright: ignore[reportArgumentType]


def _encoded(picture: object, array_format: ArrayFormat) -> bytes:
    import cv2
    import numpy as np

    if not isinstance(picture, np.ndarray):
        raise TypeError(
            f"a picture is a path, bytes, a binary file or an array, not {type(picture).__name__}"
        )
    pixels = cast("NDArray[np.uint8]", picture)
    shape = pixels.shape
    if pixels.dtype != np.uint8 or not (len(shape) == 2 or shape[2:] == (3,)) or 0 in shape:
        raise ValueError(
            f"an array of {pixels.dtype} {list(shape)} is no picture; give uint8 BGR [h, w, 3] "
            "or grey [h, w]"
        )
    if array_format == "jpeg":
        encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    else:
        encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise ValueError(f"an array of {list(shape)} does not fit into a {array_format} file")
    return data.tobytes()
