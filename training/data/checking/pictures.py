"""Every image file of a split, read side by side: whether it decodes, and what it is known by.

Decoded is exactly as training decodes (`training.data.sampling.images`). Threads, since decoding
and hashing let go of Python's lock; a picture at a time on each, so that memory stays small.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from training.data.checking.file_facts import FileFacts, decoded_facts, file_facts
from training.data.checking.likeness import Likeness, likeness
from training.data.decoding import decode
from training.data.sampling.images import UnreadableImage, decode_image

#: What is read of a file whose pixels are not decoded; colours and orientation stand there.
_HEAD_BYTES = 2**18
#: Formats whose facts show without decoding.
_KNOWN_HEADS = (b"\x89PNG", b"\xff\xd8")
_AHEAD_PER_THREAD = 4


@dataclass(frozen=True)
class PictureFile:
    """What a file is to hold: `size` (height, width) as the annotations count it."""

    path: Path
    size: tuple[int, int]
    upright: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """What was found in a file. `fault` is the code of a kind and what is the matter.

    `digest` is of the file's bytes, `likeness` of its pixels; None where not decoded.
    """

    facts: FileFacts
    num_bytes: int
    fault: tuple[str, str] | None = None
    digest: bytes | None = None
    likeness: Likeness | None = None


#: Told how many files are read.
Progress = Callable[[int], None]


def read_pictures(
    files: Sequence[PictureFile], *, num_threads: int, decodes: bool, progress: Progress
) -> Iterator[Picture]:
    """Each file's picture, in their order; `decodes` or looks at the head alone."""
    read = decoded_picture if decodes else picture_from_head
    remaining = iter(files)
    pool = ThreadPoolExecutor(num_threads)
    try:
        waiting: list[Future[Picture]] = [
            pool.submit(read, file) for file in islice(remaining, num_threads * _AHEAD_PER_THREAD)
        ]
        for done in range(1, len(files) + 1):
            picture = waiting.pop(0).result()
            waiting.extend(pool.submit(read, file) for file in islice(remaining, 1))
            progress(done)
            yield picture
    finally:
        # After Ctrl-C nothing more is begun.
        pool.shutdown(cancel_futures=True)


def decoded_picture(file: PictureFile) -> Picture:
    """Read and decode a file."""
    try:
        content = file.path.read_bytes()
    except OSError as error:
        return Picture(FileFacts(), 0, ("undecodable-image", error.strerror or str(error)))
    stored = np.frombuffer(content, np.uint8)
    facts = file_facts(content)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    try:
        pixels = decode_image(stored, file.path, file.size, upright=file.upright)
    except UnreadableImage:
        fault = _fault(stored, facts, file)
        return Picture(facts, len(content), fault, digest)
    if not content.startswith(_KNOWN_HEADS):
        unchanged = decode(stored, cv2.IMREAD_UNCHANGED)
        facts = facts if unchanged is None else decoded_facts(unchanged)
    return Picture(facts, len(content), None, digest, likeness(pixels))


def picture_from_head(file: PictureFile) -> Picture:
    """Read the first part of a file."""
    try:
        with file.path.open("rb") as opened:
            facts = file_facts(opened.read(_HEAD_BYTES))
            num_bytes = os.fstat(opened.fileno()).st_size
    except OSError as error:
        return Picture(FileFacts(), 0, ("undecodable-image", error.strerror or str(error)))
    return Picture(facts, num_bytes)


def file_digest(path: Path) -> bytes:
    """The digest of a file of which the head alone was read."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).digest()


def _fault(stored: np.ndarray, facts: FileFacts, file: PictureFile) -> tuple[str, str]:
    """Why a file that states the right size is not the image that is annotated."""
    pixels = decode(stored, cv2.IMREAD_COLOR)
    if pixels is None:
        return "undecodable-image" if facts.has_end else "truncated-image", ""
    height, width = pixels.shape[:2]
    stated = f"{file.size[1]}x{file.size[0]}"
    return "pixels-of-another-size", f"{width}x{height} pixels, annotated as {stated}"
