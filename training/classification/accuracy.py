"""How often a classifier is right: its first guess, and its first five."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.graph import Normalise
from training.classification.samples import LabelledImages, evaluation_sample, read_picture
from training.config import TrainConfig
from training.data.sampling.images import Pixels, UnreadableImage
from training.evaluation.average_precision import Metrics
from training.evaluation.instances import Ints

#: The metric that decides which weights are best.
PRIMARY_METRIC = "top1"

#: Name of a metric to how many guesses it allows.
_GUESSES = {"top1": 1, "top5": 5}


@dataclass(frozen=True)
class Accuracy:
    """Shares (0 to 1) of images whose class is among the first guesses, over all and by class.

    `unreadable` has a line for each image that was left out.
    """

    metrics: Metrics
    unreadable: tuple[str, ...] = ()


class AccuracyEvaluator:
    """Evaluates on one set of images, again and again.

    Raises ValueError for a set without images.
    """

    def __init__(self, images: LabelledImages, config: TrainConfig, device: torch.device) -> None:
        if not len(images):
            raise ValueError("there is no validation image; add some, or leave their folder away")
        self._images = images
        self._config = config
        self._device = device
        self._normalise = Normalise().to(device)

    def evaluate(
        self,
        network: nn.Module,
        watch: Callable[[int, int], bool] = lambda _done, _total: True,
    ) -> Accuracy | None:
        """How often `network`, which is on the evaluator's device, is right.

        `watch` is called after each batch, with the images done and in all; where it says that
        this is to stop, the result is None. Raises UnreadableImage where no image can be read.
        """
        hits = np.zeros((len(self._images.classes), len(_GUESSES)), np.int64)
        counts = np.zeros(len(self._images.classes), np.int64)
        done, unreadable = 0, list[str]()
        with _in_evaluation_mode(network), closing(self._batches()) as batches:
            for batch in batches:
                read = [each for each in batch if not isinstance(each, str)]
                unreadable += [each for each in batch if isinstance(each, str)]
                if read:
                    labels = np.array([label for _, label in read])
                    np.add.at(hits, labels, self._hits(network, read))
                    np.add.at(counts, labels, 1)
                done += len(batch)
                if not watch(done, len(self._images)):
                    return None
        if not counts.any():
            raise UnreadableImage(f"no image can be read; the first: {unreadable[0]}")
        return Accuracy(self._metrics(hits, counts), tuple(unreadable))

    def _metrics(self, hits: Ints, counts: Ints) -> Metrics:
        def shares(hits: Ints, count: int) -> dict[str, float]:
            return dict(zip(_GUESSES, (hits / count).tolist(), strict=True))

        per_class = {
            name: shares(hits[label], counts[label])
            for label, name in enumerate(self._images.classes)
            if counts[label]
        }
        total = int(counts.sum())
        return Metrics(shares(hits.sum(axis=0), total), per_class, total)

    def _batches(self) -> "Generator[list[_Labelled | str]]":
        """Batch after batch, read ahead; for an image that cannot be read, why."""
        size, total = self._config.data.batch_size, len(self._images)
        with ThreadPoolExecutor(self._config.evaluation.num_threads) as pool:

            def read(start: int) -> list[Future[_Labelled | str]]:
                positions = range(start, min(start + size, total))
                return [pool.submit(self._read, position) for position in positions]

            try:
                ahead = read(0)
                for start in range(0, total, size):
                    reading, ahead = ahead, read(start + size)
                    yield [future.result() for future in reading]
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, position: int) -> "_Labelled | str":
        try:
            image = read_picture(self._images.image_path(position))
        except UnreadableImage as error:
            return str(error)
        sample = evaluation_sample(image, self._config.model.input_size)
        return sample, self._images.label(position)

    @torch.inference_mode()
    def _hits(self, network: nn.Module, batch: "Sequence[_Labelled]") -> Ints:
        """For each image [n, metrics], 1 where the guesses of a metric have its class."""
        images = torch.from_numpy(np.stack([image for image, _ in batch])).to(self._device)
        labels = torch.tensor([label for _, label in batch], device=self._device)
        bf16 = self._config.runtime.precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            logits = network(self._normalise(images))
        return is_hit(logits, labels).cpu().numpy().astype(np.int64)


_Labelled = tuple[Pixels, int]


def is_hit(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each row's label is among the highest of its logits [n, classes]: bool [n, metrics].

    The metrics are top-1 and top-5, in that order.
    """
    best = logits.topk(min(max(_GUESSES.values()), logits.shape[1]), dim=1).indices
    right = best == labels[:, None]
    return torch.stack([right[:, :guesses].any(dim=1) for guesses in _GUESSES.values()], dim=1)


@contextmanager
def _in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
