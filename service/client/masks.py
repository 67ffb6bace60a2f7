"""Masks as they come: run lengths, outlines or a picture, each of which becomes the same array."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from service.client.errors import BadAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Height and width of the picture, in pixels.
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

#: [x, y] in pixels; (0, 0) is the upper left corner of the upper left pixel.
Point = tuple[FiniteFloat, FiniteFloat]
Ring = tuple[Point, ...]


@dataclass(frozen=True)
class RleMask:
    """COCO's compressed run lengths, down the columns; `pycocotools` reads the same members."""

    format: Literal["rle"]
    size: Size
    counts: str

    def to_array(self) -> "NDArray[np.bool_]":
        """Bool [height, width] of the whole picture. Raises BadAnswer."""
        from service.client.mask_arrays import decode_run_lengths

        return _decoded(lambda: decode_run_lengths(self.counts, *self.size))


@dataclass(frozen=True)
class Polygon:
    """One connected part: its outline and its holes, the last point joined to the first."""

    exterior: Ring
    holes: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class PolygonMask:
    """The outlines of the parts."""

    format: Literal["polygon"]
    size: Size
    polygons: tuple[Polygon, ...]

    def to_array(self) -> "NDArray[np.bool_]":
        """Bool [height, width]: the pixels whose middle lies inside an outline and no hole."""
        from service.client.mask_arrays import fill_rings

        rings = [ring for part in self.polygons for ring in (part.exterior, *part.holes)]
        return _decoded(lambda: fill_rings(rings, *self.size))


@dataclass(frozen=True)
class PngMask:
    """base64 of a PNG of one channel, as large as the picture: 255 where the object is, else 0."""

    format: Literal["png"]
    size: Size
    png: str

    def to_array(self) -> "NDArray[np.bool_]":
        """Bool [height, width] of the whole picture. Raises BadAnswer."""
        from service.client.mask_arrays import decode_png

        return _decoded(lambda: decode_png(self.png, *self.size))


Mask = Annotated[RleMask | PolygonMask | PngMask, Field(discriminator="format")]


def _decoded(decode: "Callable[[], NDArray[np.bool_]]") -> "NDArray[np.bool_]":
    try:
        return decode()
    except ValueError as error:
        raise BadAnswer(f"the server sent a damaged mask: {error}") from error
