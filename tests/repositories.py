"""Model repositories for tests whose runtime is the fake one: manifests without real graphs."""

from pathlib import Path

from model.config import Task
from model.manifest import (
    DEFAULT_THRESHOLDS,
    GRAPH_FILE,
    MANIFEST_FILE,
    ModelManifest,
    Source,
    VersionManifest,
    file_sha256,
    write_manifest,
)

CLASSES = ("person", "car", "traffic light")


def write_model(
    repository: Path,
    name: str,
    *,
    task: Task = "detect",
    input_size: tuple[int, int] = (64, 96),
    version: int = 1,
) -> Path:
    """A model that the repository reader accepts; its graph is no graph. Returns its folder."""
    folder = repository / name
    graph = folder / str(version) / GRAPH_FILE
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"not a graph")
    described = VersionManifest(
        variant="rtmdet-nano",
        task=task,
        classes=CLASSES,
        input_size=input_size,
        num_candidates=1,
        opset=18,
        thresholds=DEFAULT_THRESHOLDS[task],
        files={GRAPH_FILE: file_sha256(graph)},
        source=Source(kind="initialised"),
    )
    manifest = ModelManifest(name=name, versions={version: described})
    write_manifest(manifest, folder / MANIFEST_FILE)
    return folder
