"""What a report is made of, as its caller hands it in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.config import Task
from training.evaluation.evaluator import Evaluated
from training.evaluation.inference import ImageFiles


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportInputs:
    """Everything that a report of a detector shows.

    `images` are those of the whole set, which `evaluated.positions` count. `facts` say what was
    evaluated, as "Weights": "epoch_300.safetensors"; they are shown as they are, in this order.
    `score_threshold` is from where on mistakes are counted; None takes the one with the best F1.
    With `run_folder` the report has the training's curves.
    """

    evaluated: Evaluated
    images: ImageFiles
    classes: Sequence[str]
    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    score_threshold: float | None = None
    run_folder: Path | None = None

    @property
    def task(self) -> Task:
        """What is compared: masks where there are any, else boxes of the sort there is."""
        if self.evaluated.truth.masks is not None:
            return "instance"
        return "rotated" if self.evaluated.truth.boxes.shape[1] == 5 else "detect"
