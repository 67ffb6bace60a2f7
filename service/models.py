"""The model repository on disk: which models there are, and whether their files are sound.

The layout is Triton's; see `model.manifest` for what stands beside it.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from model.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    ManifestError,
    ModelManifest,
    file_sha256,
    read_model_manifest,
)


class RepositoryError(ValueError):
    """A repository or a model in it that cannot be served, and why."""


@dataclass(frozen=True)
class RepositoryModel:
    """One version of one model on disk."""

    manifest: ModelManifest
    version: int
    graph_path: Path

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.manifest.name


class ModelRepository:
    """Reads a folder of models; holds nothing, so what it says is what lies on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Names of the models that have a manifest, sorted. Raises RepositoryError."""
        if not self._root.is_dir():
            raise RepositoryError(
                f"no model repository at {self._root}: set RTMDET_MODEL_REPOSITORY, or make one "
                "with 'rtmdet models import' or 'rtmdet models pull'"
            )
        return sorted(
            entry.name for entry in self._root.iterdir() if (entry / MANIFEST_FILE).is_file()
        )

    def open(self, name: str) -> RepositoryModel:
        """The newest version of a model, its graph checked against the manifest's digest.

        Raises RepositoryError: no such model, no version, a damaged file.
        """
        if name not in self.names():
            raise RepositoryError(f"no model '{name}' in {self._root}{self._hint(name)}")
        folder = self._root / name
        try:
            manifest = read_model_manifest(folder / MANIFEST_FILE)
        except ManifestError as error:
            raise RepositoryError(str(error)) from error
        if manifest.name != name:
            raise RepositoryError(f"{folder}: its manifest is of a model '{manifest.name}'")
        version = _newest_version(folder)
        graph_path = folder / str(version) / GRAPH_FILE
        _require_digest(manifest, version, graph_path)
        return RepositoryModel(manifest, version, graph_path)

    def _hint(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            return f"; did you mean '{near[0]}'?"
        return f"; there are: {', '.join(names)}" if names else "; it is empty"


def _newest_version(folder: Path) -> int:
    versions = [
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isdigit() and (entry / GRAPH_FILE).is_file()
    ]
    if not versions:
        raise RepositoryError(f"{folder}: no version with a {GRAPH_FILE}; export the model again")
    return max(versions)


def _require_digest(manifest: ModelManifest, version: int, graph_path: Path) -> None:
    expected = manifest.files.get(f"{version}/{GRAPH_FILE}")
    if expected is None:
        raise RepositoryError(f"{graph_path}: not in the model's manifest; export it again")
    if file_sha256(graph_path) != expected:
        raise RepositoryError(
            f"{graph_path}: its sha256 is not the manifest's; the file is damaged or was replaced"
        )
