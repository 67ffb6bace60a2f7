"""How often a classifier is right: its first guess, and its first five."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.graph import Normalise
from training.classification.samples import LabelledImages, evaluation_sample, read_picture
from training.config import TrainConfig
from training.data.sampling.images import Pixels, UnreadableImage
from training.evaluation.average_precision import Metrics
from training.evaluation.instances import Ints
from training.evaluation.predictors.torch_network import fitting_in_memory
from training.networks import in_evaluation_mode

#: The metric that decides which weights are best.
PRIMARY_METRIC = "top1"

#: Name of a metric to how many guesses it allows.
_GUESSES = {"top1": 1, "top5": 5}


@dataclass(frozen=True, eq=False)
class Guesses:
    """What n images were taken for, in the order of the set.

    `positions` int64 [n] in the set, of those that could be read; `labels` int64 [n] of their
    classes. `guesses` int64 [n, k]: the likeliest classes, at most five, the likeliest first;
    `probabilities` float32 [n, k] of these.
    """

    positions: Ints
    labels: Ints
    guesses: Ints
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def joined(cls, parts: "Sequence[Guesses]") -> "Guesses":
        """Several parts as one; at least one part."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def hits(self) -> Ints:
        """For each image [n, metrics], 1 where the guesses of a metric have its class."""
        is_right = self.guesses == self.labels[:, None]
        of_metrics = [is_right[:, :allowed].any(axis=1) for allowed in _GUESSES.values()]
        return np.stack(of_metrics, axis=1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Shares (0 to 1) of images whose class is among the first guesses, over all and by class.

    `unreadable` has a line for each image that was left out.
    """

    metrics: Metrics
    guesses: Guesses
    unreadable: tuple[str, ...] = ()


class AccuracyEvaluator:
    """Evaluates on one set of images, again and again.

    Raises ValueError for a set without images.
    """

    def __init__(
        self,
        images: LabelledImages,
        config: TrainConfig,
        device: torch.device,
        *,
        skips_unreadable: bool = True,
    ) -> None:
        if not len(images):
            raise ValueError("there is no validation image; add some, or leave their folder away")
        self._images = images
        self._config = config
        self._device = device
        self._skips_unreadable = skips_unreadable
        self._normalise = Normalise().to(device)

    def evaluate(
        self,
        network: nn.Module,
        watch: Callable[[int, int], bool] = lambda _done, _total: True,
    ) -> Accuracy | None:
        """How often `network`, which is on the evaluator's device, is right.

        `watch` is called after each batch, with the images done and in all; where it says that
        this is to stop, the result is None. Raises UnreadableImage where no image can be read, or
        at the first that cannot where none is to be left out.
        """
        parts = list[Guesses]()
        done, unreadable = 0, list[str]()
        with in_evaluation_mode(network), closing(self._batches()) as batches:
            for batch in batches:
                read = [each for each in batch if not isinstance(each, str)]
                unreadable += [each for each in batch if isinstance(each, str)]
                if unreadable and not self._skips_unreadable:
                    raise UnreadableImage(unreadable[0])
                if read:
                    parts.append(self._guesses(network, read))
                done += len(batch)
                if not watch(done, len(self._images)):
                    return None
        if not parts:
            raise UnreadableImage(f"no image can be read; the first: {unreadable[0]}")
        guesses = Guesses.joined(parts)
        return Accuracy(metrics_of(guesses, self._images.classes), guesses, tuple(unreadable))

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
        return _Labelled(position, self._images.label(position), sample)

    @torch.inference_mode()
    def _guesses(self, network: nn.Module, batch: "Sequence[_Labelled]") -> Guesses:
        images = torch.from_numpy(np.stack([each.pixels for each in batch])).to(self._device)
        bf16 = self._config.runtime.precision == "bf16"
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=bf16)
        with autocast, fitting_in_memory(len(batch)):
            logits = network(self._normalise(images))
        # Ranked by logits, as probabilities of those that are far behind are all 0.
        best = logits.topk(min(max(_GUESSES.values()), logits.shape[1]), dim=1).indices
        return Guesses(
            positions=np.array([each.position for each in batch]),
            labels=np.array([each.label for each in batch]),
            guesses=best.cpu().numpy(),
            probabilities=logits.float().softmax(dim=1).gather(1, best).cpu().numpy(),
        )


class _Labelled(NamedTuple):
    position: int
    label: int
    pixels: Pixels


def metrics_of(guesses: Guesses, classes: Sequence[str]) -> Metrics:
    """Top-1 and top-5 of at least one image, over all and of every class that has one."""
    hits = guesses.hits()
    shares = {
        name: hits[guesses.labels == label].mean(axis=0)
        for label, name in enumerate(classes)
        if (guesses.labels == label).any()
    }

    def by_name(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(_GUESSES, values.tolist(), strict=True))

    per_class = {name: by_name(values) for name, values in shares.items()}
    return Metrics(by_name(hits.mean(axis=0)), per_class, len(guesses))
