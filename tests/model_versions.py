"""Further versions of the models of `tests.repositories`."""

from pathlib import Path

from model.manifest import GRAPH_FILE, MANIFEST_FILE, read_model_manifest, write_manifest


def add_version(repository: Path, name: str, version: int) -> None:
    """Another version beside those that a model has."""
    folder = repository / name
    manifest = read_model_manifest(folder / MANIFEST_FILE)
    (first, described), *_ = manifest.versions.items()
    graph = folder / str(version) / GRAPH_FILE
    graph.parent.mkdir()
    graph.write_bytes((folder / str(first) / GRAPH_FILE).read_bytes())
    versions = {**manifest.versions, version: described}
    write_manifest(manifest.model_copy(update={"versions": versions}), folder / MANIFEST_FILE)
