"""Where the images of one sample come to lie, decided before a pixel is touched.

The published path builds a canvas of twice the input, resizes it and cuts an input-sized window
out of it. Here the window is drawn first, and of every image only what is seen in it is resized,
once, straight to its place. Hence one resize instead of two, with one exact scale per image;
places are rounded to whole pixels of the window, where the published path rounds sizes twice.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import StageConfig
from training.data.sampling.geometry import (
    Affine,
    Window,
    mirroring,
    moved_points,
    scaling,
    then,
    turning,
)

#: Height and width.
Size = tuple[int, int]


class Placement(NamedTuple):
    """One image on its way into the window.

    `source` is the part of the image that is used. Unless the sample is turned, it is resized by
    `scale` to begin at `start` (x, y) of the window, and `target` of that is kept. `affine` maps
    the image's coordinates to the window's, before it is mirrored; `region` is where the image may
    be seen in it.
    """

    source: Window
    scale: float
    start: tuple[int, int]
    region: Window
    affine: Affine


class Layout(NamedTuple):
    """A sample's geometry. None stands for an image of which nothing is seen.

    `width` and `height` are the window's: at most the input's, smaller for what was shrunk below
    it. `canvas` is the canvas in coordinates of the window; `turn_rad` turns it about its centre.
    The finished window is mirrored `across` (left and right) and `down`.
    """

    width: int
    height: int
    placements: tuple[Placement | None, ...]
    canvas: Window
    turn_rad: float
    across: bool
    down: bool

    @property
    def window(self) -> Window:
        """The whole window."""
        return Window(0, 0, self.width, self.height)

    @property
    def mirror(self) -> Affine:
        """The mirroring of the finished window."""
        return mirroring(self.width, self.height, across=self.across, down=self.down)

    @property
    def turn(self) -> Affine:
        """The turn about the canvas's centre, in coordinates of the window."""
        canvas = self.canvas
        centre = (canvas.left + canvas.right) / 2, (canvas.top + canvas.bottom) / 2
        return turning(self.turn_rad, *centre)

    @property
    def turned_canvas(self) -> NDArray[np.float64]:
        """The canvas's corners [4, 2] in coordinates of the window, before it is mirrored."""
        left, top, right, bottom = self.canvas
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return moved_points(corners, self.turn)


class _Tile(NamedTuple):
    """An image on the scaled canvas: its scale, and where its top left corner lies, in pixels."""

    scale: float
    left: int
    top: int


def draw_layout(
    stage: StageConfig,
    sizes: tuple[Size, ...],
    input_size: Size,
    turn_rad: float,
    rng: np.random.Generator,
) -> Layout:
    """Draw scale, mosaic centre, window and flips for one image, or for the four of a mosaic."""
    centre, ratio, corner, flip = rng.random(2), rng.random(), rng.random(2), rng.random()
    if len(sizes) == 1:
        tiles, (height, width) = _fitted(sizes[0], input_size, _ratio(stage, ratio))
    else:
        tiles, (height, width) = _mosaic(stage, sizes, input_size, ratio, centre)
    shape = _draw_window((height, width), input_size, corner, turn_rad, _flips(stage, flip))
    return _with_tiles(shape, tiles, sizes)


def draw_rescaled(size: Size, scale: float, rng: np.random.Generator, *, across: bool) -> Layout:
    """A sample of that size, rescaled: a window of its own size is drawn where it grew."""
    canvas_size = _scaled(size[0], scale), _scaled(size[1], scale)
    shape = _draw_window(canvas_size, size, rng.random(2), 0.0, (across, False))
    return _with_tiles(shape, [_Tile(scale, 0, 0)], (size,))


def _draw_window(
    canvas_size: Size,
    input_size: Size,
    drawn: NDArray[np.float64],
    turn_rad: float,
    mirrored: tuple[bool, bool],
) -> Layout:
    """The window somewhere on the canvas, still without images."""
    height, width = (min(pair) for pair in zip(canvas_size, input_size, strict=True))
    top = int(drawn[0] * (canvas_size[0] - height + 1))
    left = int(drawn[1] * (canvas_size[1] - width + 1))
    canvas = Window(-left, -top, canvas_size[1] - left, canvas_size[0] - top)
    return Layout(width, height, (), canvas, turn_rad, *mirrored)


def _with_tiles(layout: Layout, tiles: list[_Tile], sizes: tuple[Size, ...]) -> Layout:
    """Tiles are given on the canvas."""
    canvas = layout.canvas
    placements = (
        _place(_Tile(tile.scale, tile.left + canvas.left, tile.top + canvas.top), size, layout)
        for tile, size in zip(tiles, sizes, strict=True)
    )
    return layout._replace(placements=tuple(placements))


def _ratio(stage: StageConfig, drawn: float) -> float:
    if stage.scale_range is None:
        return 1.0
    low, high = stage.scale_range
    return low + (high - low) * drawn


def _fitted(size: Size, input_size: Size, ratio: float) -> tuple[list[_Tile], Size]:
    """One image that is its own canvas."""
    scale = _fit(size, input_size) * ratio
    return [_Tile(scale, 0, 0)], (_scaled(size[0], scale), _scaled(size[1], scale))


def _mosaic(
    stage: StageConfig,
    sizes: tuple[Size, ...],
    input_size: Size,
    ratio: float,
    centre: NDArray[np.float64],
) -> tuple[list[_Tile], Size]:
    """Four images that meet in a point: top left the first, then top right and the lower two."""
    assert stage.mosaic is not None
    # Without a range the whole canvas, twice the input, is fitted into the input.
    factor = 0.5 if stage.scale_range is None else _ratio(stage, ratio)
    low, high = stage.mosaic.centre_range
    y, x = (
        round((low + (high - low) * drawn) * side * factor)
        for drawn, side in zip(centre, input_size, strict=True)
    )
    tiles: list[_Tile] = []
    for index, size in enumerate(sizes):
        scale = _fit(size, input_size) * factor
        left = x if index % 2 else x - _scaled(size[1], scale)
        top = y if index >= 2 else y - _scaled(size[0], scale)
        tiles.append(_Tile(scale, left, top))
    return tiles, (_scaled(2 * input_size[0], factor), _scaled(2 * input_size[1], factor))


def _fit(size: Size, input_size: Size) -> float:
    return min(input_size[0] / size[0], input_size[1] / size[1])


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _flips(stage: StageConfig, drawn: float) -> tuple[bool, bool]:
    """Whether to mirror across and down; a diagonal flip does both."""
    flip = stage.flip
    if drawn < flip.horizontal:
        return True, False
    if drawn < flip.horizontal + flip.vertical:
        return False, True
    diagonal = drawn < flip.horizontal + flip.vertical + flip.diagonal
    return diagonal, diagonal


def _place(tile: _Tile, size: Size, layout: Layout) -> Placement | None:
    # A turned canvas is seen as a whole for this purpose, and cut where it ends.
    limits = layout.canvas if layout.turn_rad else layout.window
    columns = _visible(size[1], tile.scale, tile.left, limits.left, limits.right)
    rows = _visible(size[0], tile.scale, tile.top, limits.top, limits.bottom)
    if columns is None or rows is None:
        return None
    offsets = (
        columns.start - tile.scale * columns.first,
        rows.start - tile.scale * rows.first,
    )
    affine, region = scaling(tile.scale, *offsets), layout.window
    if layout.turn_rad:
        affine = then(affine, layout.turn)
    else:
        region = Window(columns.low, rows.low, columns.high, rows.high)
    return Placement(
        Window(columns.first, rows.first, columns.last, rows.last),
        tile.scale,
        (columns.start, rows.start),
        region,
        affine,
    )


class _Span(NamedTuple):
    """Along one axis: source pixels [first, last) are resized to begin at `start`; of the result
    [low, high) is seen.
    """

    first: int
    last: int
    start: int
    low: int
    high: int


def _visible(side: int, scale: float, begin: int, lowest: int, highest: int) -> _Span | None:
    """What of an image that begins at `begin` is seen between two limits; None: nothing."""
    end = begin + round(side * scale)
    low, high = max(begin, lowest), min(end, highest)
    if high <= low:
        return None
    # A pixel of the window more than is needed, for what the rounding of places may take.
    first = max(0, int((low - 1 - begin) / scale))
    start = round(begin + scale * first)
    last = min(side, first + math.ceil((high - start) / scale))
    if last == side:
        # Images of a mosaic meet without a gap: where the end is seen, it is what is kept in place.
        start = end - round((side - first) * scale)
    return _Span(first, last, start, low, high)
