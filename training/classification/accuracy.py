"""How often a classifier is right: its first guess, and its first five."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from model.graph import Normalise
from training.classification.samples import LabelledImages, evaluation_sample, read_picture
from training.config import TrainConfig
from training.data.sampling.images import Pixels, UnreadableImage
from training.distributed import Ranks
from training.evaluation.together import all_go_on

#: The metric that decides which weights are best.
PRIMARY_METRIC = "top1"

#: Name of a metric to how many guesses it allows.
_GUESSES = {"top1": 1, "top5": 5}

#: Threads that read and resize; both leave Python's lock.
_NUM_THREADS = 2


class AccuracyEvaluator:
    """Evaluates on one set of images, again and again; all ranks make one each.

    Raises ValueError for a set without images.
    """

    def __init__(self, images: LabelledImages, config: TrainConfig, ranks: Ranks) -> None:
        if not len(images):
            raise ValueError("there is no validation image; add some, or leave their folder away")
        self._images = images
        self._config = config
        self._ranks = ranks
        self._normalise = Normalise().to(ranks.device)

    def evaluate(
        self,
        network: nn.Module,
        watch: Callable[[int, int], bool] = lambda _done, _total: True,
    ) -> dict[str, float] | None:
        """Shares (0 to 1) of images whose class is among the first guesses, on every rank.

        All ranks call it together. `watch` is called on each after every round of batches, with
        the images done and in all; where it says on any that this is to stop, the result is None.
        Raises UnreadableImage on every rank if any of them cannot read an image.
        """
        total = len(self._images)
        per_round = self._config.data.batch_size * self._ranks.num_ranks
        hits = np.zeros(len(_GUESSES), np.int64)
        was_training = network.training
        network.eval()
        try:
            for done, batch in enumerate(self._rounds(per_round), start=1):
                problem = batch if isinstance(batch, str) else None
                if problem is None and len(batch):
                    hits += self._hits(network, batch)  # type: ignore[arg-type]
                goes_on = watch(min(done * per_round, total), total)
                if not all_go_on(self._ranks, problem, goes_on=goes_on):
                    return None
        finally:
            network.train(was_training)
        shares = np.sum(self._ranks.gather(hits), axis=0) / total
        return dict(zip(_GUESSES, shares.tolist(), strict=True))

    def _rounds(self, per_round: int) -> Iterator["list[_Labelled] | str"]:
        """This rank's images of each round, read ahead; or why one of them could not be read."""
        mine = range(self._ranks.rank, len(self._images), self._ranks.num_ranks)
        size = self._config.data.batch_size
        num_rounds = -(-len(self._images) // per_round)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:

            def read(number: int) -> list[Future[_Labelled]]:
                batch = mine[number * size : (number + 1) * size]
                return [pool.submit(self._read, position) for position in batch]

            try:
                ahead = read(0)
                for number in range(num_rounds):
                    reading, ahead = ahead, read(number + 1)
                    try:
                        yield [future.result() for future in reading]
                    except UnreadableImage as error:
                        yield str(error)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, position: int) -> "_Labelled":
        image = read_picture(self._images.image_path(position))
        sample = evaluation_sample(image, self._config.model.input_size)
        return sample, self._images.label(position)

    @torch.inference_mode()
    def _hits(self, network: nn.Module, batch: "Sequence[_Labelled]") -> np.ndarray:
        device = self._ranks.device
        images = torch.from_numpy(np.stack([image for image, _ in batch])).to(device)
        labels = torch.tensor([label for _, label in batch], device=device)
        bf16 = self._config.runtime.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(self._normalise(images))
        return np.array(list(num_hits(logits, labels).values()))


_Labelled = tuple[Pixels, int]


def num_hits(logits: Tensor, labels: Tensor) -> dict[str, int]:
    """By metric, in how many rows of [n, classes] the label is among the highest logits."""
    best = logits.topk(min(max(_GUESSES.values()), logits.shape[1]), dim=1).indices
    right = best == labels[:, None]
    return {name: int(right[:, :guesses].any(dim=1).sum()) for name, guesses in _GUESSES.items()}
