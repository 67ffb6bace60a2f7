"""Drafts: how a sample is going to be made, as a few integers, before any image is read.

A lane plans the drafts that one worker renders and follows the published caches of mosaic and
mix-up at the level of drafts: it knows what lies in them, the worker may hold the pixels or not.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from training.config import StageConfig

#: Sets the random numbers of planning apart from those of rendering, which have the same seed.
PLANNING = 1

#: A cache of at most so many entries leaves the sample unchanged, as published.
_MOSAIC_MINIMUM = 4
_MIXUP_MINIMUM = 1
_NUM_TILES = 3

Entry = TypeVar("Entry")


class Draft(NamedTuple):
    """One sample: a stage of the recipe, an image, and a seed for everything that is drawn.

    `tiles` are the images beside it in a mosaic: none or three positions. `partners` are the
    candidates of mix-up in order of preference: the first one with a box is taken. They have no
    partners themselves.
    """

    stage: int
    position: int
    seed: int
    tiles: tuple[int, ...] = ()
    partners: tuple["Draft", ...] = ()

    def without_partners(self) -> "Draft":
        """The sample before mix-up: what the cache of mix-up holds."""
        return self._replace(partners=())


class MixingCache(Generic[Entry]):
    """The published cache: above `length` one entry leaves, any (even the newest) or the oldest."""

    def __init__(self, length: int, *, random_pop: bool) -> None:
        self._length = length
        self._random_pop = random_pop
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, rng: np.random.Generator) -> None:
        """Add an entry; one leaves when there are too many."""
        self._entries.append(entry)
        if len(self._entries) > self._length:
            leaves = int(rng.integers(len(self._entries))) if self._random_pop else 0
            del self._entries[leaves]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Entry, ...]:
        """`count` entries with replacement; the newest may be among them."""
        chosen = rng.integers(len(self._entries), size=count)
        return tuple(self._entries[index] for index in chosen.tolist())


class Lane:
    """Plans the drafts of one worker, one after another.

    What is drawn depends on the draft's own seed alone, so that two lanes which saw the same
    drafts for long enough hold the same, whatever they held before.
    """

    def __init__(self, stage_index: int, stage: StageConfig) -> None:
        self._stage_index = stage_index
        self._mosaic = stage.mosaic
        self._mixup = stage.mixup
        if stage.mosaic is not None:
            self._images = MixingCache[int](
                stage.mosaic.cache_length, random_pop=stage.mosaic.random_pop
            )
        if stage.mixup is not None:
            self._samples = MixingCache[Draft](
                stage.mixup.cache_length, random_pop=stage.mixup.random_pop
            )

    def plan(self, position: int, seed: int) -> Draft:
        """The next draft: the image at `position`, mixed with what the caches hold now."""
        rng = np.random.default_rng((seed, PLANNING))
        draft = Draft(self._stage_index, position, seed, self._tiles(position, rng))
        return draft._replace(partners=self._partners(draft, rng))

    def _tiles(self, position: int, rng: np.random.Generator) -> tuple[int, ...]:
        if self._mosaic is None:
            return ()
        self._images.add(position, rng)
        if len(self._images) <= _MOSAIC_MINIMUM or rng.random() > self._mosaic.probability:
            return ()
        return self._images.draw(_NUM_TILES, rng)

    def _partners(self, draft: Draft, rng: np.random.Generator) -> tuple[Draft, ...]:
        if self._mixup is None:
            return ()
        self._samples.add(draft, rng)
        if len(self._samples) <= _MIXUP_MINIMUM or rng.random() > self._mixup.probability:
            return ()
        # A partner that was refused once would be refused again.
        return tuple(dict.fromkeys(self._samples.draw(self._mixup.max_draws, rng)))
