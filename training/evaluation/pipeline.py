"""Detecting in many images at once: reading, the network and post-processing beside one another.

Images are read and detections are assembled on threads; as many batches are in the network as its
runtime wants, and one more is being read. What comes out is in the order of what goes in.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from model.postprocess import PostprocessSettings
from training.data.sampling.images import UnreadableImage
from training.evaluation.inference import ImageFiles, NetworkInput, detections, read_input
from training.evaluation.instances import Found
from training.evaluation.predictors.base import Predictor

#: What comes of one image: detections, or why it could not be read.
Outcome = Found | UnreadableImage


class Pipeline:
    """Detects in images of one set with one predictor."""

    def __init__(
        self,
        images: ImageFiles,
        predictor: Predictor,
        settings: PostprocessSettings,
        *,
        batch_size: int,
        num_threads: int,
    ) -> None:
        self._images = images
        self._predictor = predictor
        self._settings = settings
        self._batch_size = min(batch_size, predictor.max_batch_size)
        self._num_threads = num_threads

    def run(self, positions: Sequence[int]) -> Generator[list[Outcome], None, None]:
        """The outcomes of the images at those positions, batch by batch.

        Close it to end early; it raises what the predictor raises.
        """
        size, concurrency = self._batch_size, self._predictor.concurrency
        batches = [positions[start : start + size] for start in range(0, len(positions), size)]
        with (
            ThreadPoolExecutor(self._num_threads, "images") as workers,
            ThreadPoolExecutor(concurrency, "network") as callers,
        ):
            under_way: deque[Future[list[Future[Outcome]]]] = deque()
            try:
                for batch in batches:
                    reading = [workers.submit(self._read, position) for position in batch]
                    under_way.append(callers.submit(self._detect, reading, workers))
                    if len(under_way) > concurrency + 1:
                        yield _results(under_way.popleft())
                while under_way:
                    yield _results(under_way.popleft())
            finally:
                for pool in (callers, workers):
                    pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, position: int) -> NetworkInput | UnreadableImage:
        try:
            return read_input(self._images, position, self._predictor.input_size)
        except UnreadableImage as error:
            return error

    def _detect(
        self, reading: list[Future[NetworkInput | UnreadableImage]], workers: ThreadPoolExecutor
    ) -> list[Future[Outcome]]:
        """Run the network on a batch; its detections are left to the workers."""
        read = [future.result() for future in reading]
        readable = [each for each in read if isinstance(each, NetworkInput)]
        candidates = iter(self._predictor.candidates(readable) if readable else ())
        outcomes: list[Future[Outcome]] = []
        for each in read:
            if isinstance(each, UnreadableImage):
                outcomes.append(_done(each))
            else:
                arguments = next(candidates), each, self._settings
                outcomes.append(workers.submit(detections, *arguments))
        return outcomes


def _results(batch: Future[list[Future[Outcome]]]) -> list[Outcome]:
    return [outcome.result() for outcome in batch.result()]


def _done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future
