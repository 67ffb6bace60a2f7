"""What was measured, with what, on what: everything that a reader needs to believe the figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model.manifest import Evaluation
from model.postprocess import PostprocessSettings
from training.evaluation.average_precision import Metrics
from training.evaluation.evaluator import Postprocessing
from training.measuring.data import DataIdentity
from training.measuring.opening import ModelIdentity


@dataclass(frozen=True)
class ClassCounts:
    """Instances that were to be found (images, for a classifier), and detections."""

    instances: int
    detections: int | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The figures, and how they came about.

    `postprocess` and its `values` are None for classifiers; so are instances. `patches` are
    (side, overlap) in pixels where large images were cut. `date` is in UTC, to the second.
    """

    metrics: Metrics
    counts: Mapping[str, ClassCounts]
    model: ModelIdentity
    runtime: str
    input_size: tuple[int, int]
    postprocess: Postprocessing | None
    values: PostprocessSettings | None
    data: DataIdentity
    patches: tuple[int, int] | None
    num_instances: int | None
    remarks: tuple[str, ...]
    unreadable: tuple[str, ...]
    date: str
    seconds: float

    @property
    def settings(self) -> dict[str, float | int | bool]:
        """The values of the post-processing that was used, by name."""
        if self.values is None:
            return {}
        values = {name: value for name, value in asdict(self.values).items() if value is not None}
        if self.postprocess == "serving":
            # The graph has selected.
            del values["candidates_per_level"]
        if self.model.task != "instance":
            del values["mask_threshold"], values["crop_masks_to_boxes"]
        return values

    def as_json(self) -> dict[str, Any]:
        """As one document."""
        model = self.model
        source = None if model.source is None else model.source.model_dump(exclude_none=True)
        return {
            "metrics": self.metrics.values,
            "per_class": {
                name: {**self.metrics.per_class.get(name, {}), **asdict(counts)}
                for name, counts in self.counts.items()
            },
            "model": {**asdict(model), "file": str(model.file), "source": source},
            "runtime": self.runtime,
            "input_size": list(self.input_size),
            "settings": {"name": self.postprocess, **self.settings} if self.settings else None,
            "data": {
                "path": str(self.data.path),
                "split": self.data.split,
                "format": self.data.format,
                "images": self.metrics.num_images,
                "instances": self.num_instances,
                "patches": None
                if self.patches is None
                else dict(zip(("side", "overlap"), self.patches, strict=True)),
            },
            "remarks": list(self.remarks),
            "unreadable": list(self.unreadable),
            "date": self.date,
            "seconds": round(self.seconds, 2),
        }

    def as_evaluation(self) -> Evaluation:
        """What an exported model's manifest says of it."""
        assert self.postprocess is not None
        assert self.num_instances is not None
        return Evaluation(
            dataset=self.data.name,
            split=self.data.split,
            num_images=self.metrics.num_images,
            num_instances=self.num_instances,
            settings=self.postprocess,
            runtime=self.runtime,
            patches=self.patches,
            date=self.date[:10],
            metrics={name: round(value, 6) for name, value in self.metrics.values.items()},
        )

    def facts(self) -> dict[str, str]:
        """What people read beside the figures, in order."""
        model, data = self.model, self.data
        version = "" if model.version is None else f" version {model.version}"
        height, width = self.input_size
        lines = {
            "model": f"{model.name}{version} ({model.variant}, {model.task})",
            "weights" if model.kind == "checkpoint" else "graph": (
                f"{model.file}, sha256 {model.sha256[:12]}"
            ),
            "runtime": self.runtime,
            "input": f"{height}x{width}",
        }
        if model.source is not None and model.source.kind == "trained":
            lines["trained"] = model.source.command or model.source.dataset or "unknown"
        if self.settings:
            listed = ", ".join(f"{name} {_shown(value)}" for name, value in self.settings.items())
            lines["settings"] = f"{self.postprocess}: {listed}"
        if self.patches is not None:
            lines["patches"] = f"{self.patches[0]} pixels, overlap {self.patches[1]}"
        instances = "" if self.num_instances is None else f", {self.num_instances:,} instances"
        lines["data"] = f"{data.path} ({data.format}, {data.split})"
        lines["measured"] = (
            f"{self.metrics.num_images:,} images{instances}; {self.date}, {self.seconds:.1f} s"
        )
        return lines


def _shown(value: float | int | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"
