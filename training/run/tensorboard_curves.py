"""Curves for TensorBoard. Imported only by who draws them, for tensorboard is slow to import."""

import warnings
from collections.abc import Mapping
from pathlib import Path

with warnings.catch_warnings():
    # What its own imports are told is none of our users' business.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoardCurves:
    """Writes event files into `folder`; fulfils `training.run.progress.Curves`.

    `resumed_from`: the step that a resumed run goes on from; TensorBoard then forgets what was
    drawn after it.
    """

    def __init__(self, folder: Path, *, resumed_from: int | None = None) -> None:
        purge_step = None if resumed_from is None else resumed_from + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at `step` to each named curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
