"""Draws scenes and writes their images, in this process or in several, always in the same order."""

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.formats.layouts import Split
from training.data.synthetic.scene_records import SceneRecord, ShapesLayout, scene_record
from training.data.synthetic.scenes import Scene
from training.interruption import die_with_parent

#: Gives the scene of a seed, of a side in pixels. Worker processes find it by its name.
Draw = Callable[[int, int], Scene]

_JPEG_QUALITY = 95

#: Scenes that a process draws before it answers, and answers that each may be ahead.
_SCENES_AT_ONCE = 8
_CHUNKS_AHEAD = 3


class SceneJob(NamedTuple):
    """A scene of `size` x `size` pixels to draw: where its image goes, and for which layout."""

    split: Split
    path: Path
    seed: int
    size: int
    layout: ShapesLayout
    draw: Draw


def produced(jobs: Iterator[SceneJob], num_processes: int) -> Generator[SceneRecord, None, None]:
    """The records of all jobs in their order; each one's image is written by then.

    Once it is closed nothing is drawn any more. Raises OSError where an image cannot be written,
    ChildProcessError where a process was killed.
    """
    if num_processes == 1:
        yield from map(_produce, jobs)
        return
    # Not forked: OpenCV's threads do not survive that.
    pool = ProcessPoolExecutor(
        num_processes, get_context("spawn"), initializer=_begin_worker, initargs=(os.getpid(),)
    )
    pending: deque[Future[list[SceneRecord]]] = deque()
    try:
        while chunk := list(islice(jobs, _SCENES_AT_ONCE)):
            pending.append(pool.submit(_produce_all, chunk))
            if len(pending) > num_processes * _CHUNKS_AHEAD:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that drew scenes was killed, perhaps for want of memory; try fewer --jobs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(parent: int) -> None:
    # Ctrl-C reaches every process; the one that asked for the work ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    cv2.setNumThreads(1)


def _produce_all(jobs: list[SceneJob]) -> list[SceneRecord]:
    return [_produce(job) for job in jobs]


def _produce(job: SceneJob) -> SceneRecord:
    drawn = job.draw(job.seed, job.size)
    _write_image(job.path, drawn.image)
    return scene_record(job.split, job.path, job.layout, drawn)


def _write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    encoded, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded
    path.write_bytes(data.tobytes())
