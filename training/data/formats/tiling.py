"""Cuts large aerial images and their DOTA annotations into patches that a network can take.

A patch is named for its place, `P0001__1024__824___0`: its side, left and top in pixels of the
original image. At scale 0.5 it shows 2048 pixels of the original, `P0001__2048__0___1648`. To put
predictions back: times side / patch size, plus left and top.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.durable import move_into_place, part_of
from model.preprocess import PAD_VALUE
from training.data.decoding import decode_file
from training.data.formats.checks import Findings, broken
from training.data.formats.dota import annotations_in, paired_by_stem
from training.data.formats.label_files import labelled_images, note_strays
from training.data.formats.records import ImageRecord, InstanceRecord

_STATE_FILE = "tiling.json"
_DONE_FILE = "done.txt"


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut; lengths in pixels of the patch.

    At each of `scales` the image, resized by it, is cut into squares of `patch_size` of which
    neighbours share `overlap`. An annotation of which at least `min_share` lies in a patch belongs
    to it as a whole, as published; with at least `min_difficult_share` it is there but difficult,
    so that it is neither trained on nor counted; with less it is left out.
    """

    patch_size: int = 1024
    overlap: int = 200
    scales: tuple[float, ...] = (1.0,)
    min_share: float = 0.7
    min_difficult_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.patch_size:
            raise ValueError(
                f"patches of {self.patch_size} pixels cannot overlap by {self.overlap}: the "
                "overlap must be smaller"
            )
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ValueError(f"scales must lie between 0 and 8, got {self.scales}")
        if len({round(self.patch_size / scale) for scale in self.scales}) < len(self.scales):
            raise ValueError(f"two of the scales {self.scales} give the same patches")
        if not 0 < self.min_difficult_share <= self.min_share <= 1:
            raise ValueError(
                "shares must lie between 0 and 1, that of difficult ones not above the other"
            )


#: How the single-scale set of the published rotated models was cut.
PUBLISHED_TILING = Tiling()


class Window(NamedTuple):
    """A square of the original image: its place and side in pixels."""

    left: int
    top: int
    side: int


def tile_dataset(
    images: Path,
    labels: Path,
    out: Path,
    *,
    tiling: Tiling = Tiling(),
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Cut the images of one split into `out`/images (PNG) and `out`/labelTxt; how many patches.

    Patches are as large everywhere: what lies outside of the image is grey. `out` appears when all
    is done; until then the work is in `out`.part, where a later call goes on after an interruption.
    `progress` is told how many images of how many are done.

    Raises ValueError if `out` is there already, BrokenData for annotations that must be mended.
    """
    if out.exists():
        raise ValueError(f"{out}: is there already; remove it or name another folder")
    pairs = paired_by_stem(images, labels)
    part = part_of(out)
    done = _begun(part, images, labels, tiling)
    findings = Findings(labels)
    note_strays(pairs, labels, findings)
    remaining = [pair for pair in pairs if pair.image.name not in done]
    records = labelled_images(remaining, findings, annotations_in)
    with ThreadPoolExecutor(num_threads) as pool, (part / _DONE_FILE).open("a") as done_file:
        for count, record in enumerate(records, len(done) + 1):
            if not findings.num_problems:
                _cut_image(record, part, tiling, pool)
                done_file.write(f"{record.path.name}\n")
                done_file.flush()
            if progress is not None:
                progress(count, len(pairs))
    findings.require_none()
    (part / _DONE_FILE).unlink()
    (part / _STATE_FILE).unlink()
    move_into_place(part, out)
    return sum(1 for _ in (out / "images").iterdir())


def windows_of(height: int, width: int, tiling: Tiling) -> Iterator[Window]:
    """The squares that an image is cut into, of all scales, row by row."""
    for scale in tiling.scales:
        side = round(tiling.patch_size / scale)
        step = max(side - round(tiling.overlap / scale), 1)
        for top in _starts(height, side, step):
            for left in _starts(width, side, step):
                yield Window(left, top, side)


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where windows begin along one axis; the last is moved back to end at the border."""
    if length <= side:
        return [0]
    return [*range(0, length - side, step), length - side]


def patch_name(stem: str, window: Window) -> str:
    """The stem of a patch's files."""
    return f"{stem}__{window.side}__{window.left}___{window.top}"


def share_inside(corners: NDArray[np.float32], window: Window) -> float:
    """How much of a quadrilateral's area [4, 2] lies in the window, from 0 to 1.

    Corners in any order stand for the convex shape around them. Without an area: whether its
    centre lies there.
    """
    # Near the window single precision is enough.
    local = (corners - (window.left, window.top)).astype(np.float32)
    hull = cv2.convexHull(local)
    area = cv2.contourArea(hull)
    side = window.side
    if area <= 0:
        return float(((local.mean(axis=0) >= 0) & (local.mean(axis=0) < side)).all())
    if local.min() >= 0 and local.max() <= side:
        return 1.0
    square = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    inside, _ = cv2.intersectConvexConvex(hull, square)
    return min(float(inside) / area, 1.0)


def _begun(part: Path, images: Path, labels: Path, tiling: Tiling) -> set[str]:
    """Make the folder to work in, or go on in it: the names of the images that are done."""
    state = {"images": str(images.absolute()), "labels": str(labels.absolute()), **asdict(tiling)}
    text = json.dumps(state)
    state_file, done_file = part / _STATE_FILE, part / _DONE_FILE
    if not (state_file.is_file() and state_file.read_text("utf-8") == text):
        shutil.rmtree(part, ignore_errors=True)
        for name in ("images", "labelTxt"):
            (part / name).mkdir(parents=True)
        state_file.write_text(text, "utf-8")
    # A name without its end of line was being written when the work was interrupted.
    lines = done_file.read_text("utf-8").splitlines(keepends=True) if done_file.is_file() else []
    done = [line for line in lines if line.endswith("\n")]
    done_file.write_text("".join(done), "utf-8")
    return {line.rstrip("\n") for line in done}


def _cut_image(record: ImageRecord, part: Path, tiling: Tiling, pool: ThreadPoolExecutor) -> None:
    pixels = decode_file(record.path)
    if pixels is None:
        raise broken(record.path, "the image cannot be decoded")

    def cut(window: Window) -> None:
        stem = patch_name(record.path.stem, window)
        patch = patch_of(pixels, window, tiling.patch_size)
        encoded, data = cv2.imencode(".png", patch)
        assert encoded
        (part / "images" / f"{stem}.png").write_bytes(data.tobytes())
        lines = _label_lines(record.instances, window, tiling)
        (part / "labelTxt" / f"{stem}.txt").write_text("".join(lines), "utf-8")

    # Going through the results raises what a thread raised.
    for _ in pool.map(cut, windows_of(record.height, record.width, tiling)):
        pass


def patch_of(pixels: NDArray[np.uint8], window: Window, patch_size: int) -> NDArray[np.uint8]:
    """What is seen in the window, uint8 [patch_size, patch_size, 3]: resized to the patch, grey
    where there is no image.
    """
    left, top, side = window
    seen = pixels[top : top + side, left : left + side]
    scale = patch_size / side
    height, width = (min(round(length * scale), patch_size) for length in seen.shape[:2])
    if side != patch_size:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        seen = cv2.resize(seen, (width, height), interpolation=method)
    patch = np.full((patch_size, patch_size, 3), PAD_VALUE, np.uint8)
    patch[:height, :width] = seen
    return patch


def _label_lines(instances: list[InstanceRecord], window: Window, tiling: Tiling) -> Iterator[str]:
    scale = tiling.patch_size / window.side
    for instance in instances:
        left, top, right, bottom = instance.box_xyxy
        if not (
            window.left <= right
            and left <= window.left + window.side
            and window.top <= bottom
            and top <= window.top + window.side
        ):
            continue
        corners = instance.polygons[0].reshape(4, 2)
        share = share_inside(corners, window)
        if share < tiling.min_difficult_share:
            continue
        is_difficult = instance.is_difficult or share < tiling.min_share
        placed = (corners.astype(np.float64) - (window.left, window.top)) * scale
        numbers = " ".join(f"{value:.2f}" for value in placed.ravel().tolist())
        yield f"{numbers} {instance.category} {int(is_difficult)}\n"
