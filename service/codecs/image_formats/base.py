"""What every image format offers: a header read without decoding, and pixels.

Each sibling module is one format. It reads its own header, because general libraries allocate the
canvas, inflate text or warn while they merely open a file; and it hands the decoder only the parts
that make pixels, so that nothing else in a file (metadata, further pages and frames) is ever read.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import UndecodableImage, UnsupportedMediaType


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before anything is decoded; width and height are as stored."""

    format: str
    width: int
    height: int
    #: Memory that decoding takes at its peak, the file itself not counted; in bytes, rounded up.
    working_bytes: int
    #: EXIF orientation, 1 to 8; 1 where the file has none.
    orientation: int = 1
    #: Has more than one frame; only the first is decoded.
    animated: bool = False
    #: Has an ICC colour profile; it is ignored.
    has_icc_profile: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once `orientation` is applied."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height


@dataclass(frozen=True)
class ImageFormat:
    """One format: how to recognise it, to read its header, to decode it.

    Both functions take the whole file. They raise `UndecodableImage` and `UnsupportedMediaType`,
    and `struct.error` or `IndexError` where the file ends too early. `read_pixels` gives BGR uint8
    [height, width, 3] as stored, any transparency laid over white.
    """

    name: str
    signature: re.Pattern[bytes]
    read_header: Callable[[bytes], ImageHeader]
    read_pixels: Callable[[bytes], NDArray[np.uint8]]


def padded_pixels(width: int, height: int) -> int:
    """Pixels with what decoders keep beyond the edges, whole blocks and a few rows in progress.

    It is next to nothing, but for pictures that are very slim.
    """
    return (width + 63) * (height + 63)


def damaged(format_name: str, what: str) -> UndecodableImage:
    """The error for a file that breaks the rules of its format."""
    return UndecodableImage(
        f"The {format_name.upper()} image cannot be decoded ({what}): "
        "export the picture anew as JPEG or PNG and send the whole file."
    )


def cut_off(format_name: str) -> UndecodableImage:
    """The error for a file that ends too early."""
    return UndecodableImage(
        f"The {format_name.upper()} image is cut off before its end: send the whole file."
    )


def not_served(kind: str) -> UnsupportedMediaType:
    """The error for a sound file of a kind that is not served."""
    return UnsupportedMediaType(
        f"{kind} is not served: convert the picture to JPEG or PNG and send it again."
    )
