"""The model repository on disk: which models there are, and whether their files are sound.

The layout is Triton's; see `model.manifest` for what stands beside it. Torch-free: the server,
the exporter and the command line all read it here.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from model.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    ManifestError,
    VersionManifest,
    file_sha256,
    read_model_manifest,
)


class RepositoryError(ValueError):
    """A repository or a model in it that cannot be served, and why."""


@dataclass(frozen=True)
class StoredModel:
    """A folder of the repository: its newest version, or why it has none that can be served."""

    name: str
    versions: tuple[int, ...]
    manifest: VersionManifest | None
    problem: str | None = None


@dataclass(frozen=True)
class RepositoryModel:
    """One version of one model, found sound."""

    name: str
    version: int
    manifest: VersionManifest
    graph_path: Path


class ModelRepository:
    """Reads a folder of models; holds nothing, so what it says is what lies on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Names of the models that have a manifest, sorted; none where there is no folder."""
        if not self._root.is_dir():
            return []
        return sorted(
            entry.name for entry in self._root.iterdir() if (entry / MANIFEST_FILE).is_file()
        )

    def stored(self) -> list[StoredModel]:
        """Every model, by name, also those whose manifest cannot be read."""
        return [self._describe(self._root / name) for name in self.names()]

    def open(self, name: str, version: int | None = None) -> RepositoryModel:
        """A version of a model, by default the newest, its graph checked against its digest.

        Raises RepositoryError: no repository, no such model, no version, a damaged file.
        """
        self.require()
        if name not in self.names():
            raise RepositoryError(f"no model '{name}' in {self._root}{self._hint(name)}")
        folder = self._root / name
        try:
            number, manifest = _newest(folder) if version is None else _version(folder, version)
            graph_path = folder / str(number) / GRAPH_FILE
            _require_digest(manifest, graph_path)
        except OSError as error:
            raise RepositoryError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return RepositoryModel(name, number, manifest, graph_path)

    def require(self) -> None:
        """Raise RepositoryError unless there is a folder with a model in it."""
        how_to = "add a model with 'rtmdet models import' or 'rtmdet models pull'"
        if not self._root.is_dir():
            # The whole path: a relative one does not show that this is another folder than meant.
            raise RepositoryError(
                f"no model repository at {self._root.absolute()}: name one with --repository or "
                f"RTMDET_MODEL_REPOSITORY, or {how_to}"
            )
        if (self._root / MANIFEST_FILE).is_file():
            raise RepositoryError(
                f"{self._root} is a model, not a repository; name the folder above it"
            )
        if not self.names():
            raise RepositoryError(f"no models in {self._root.resolve()}: {how_to}")

    def _describe(self, folder: Path) -> StoredModel:
        versions: tuple[int, ...] = ()
        try:
            versions = tuple(versions_in(folder))
            return StoredModel(folder.name, versions, _newest(folder)[1])
        except (RepositoryError, OSError) as error:
            return StoredModel(folder.name, versions, None, str(error))

    def _hint(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            return f"; did you mean '{near[0]}'?"
        return f"; there are: {', '.join(names)}" if names else "; it is empty"


def versions_in(folder: Path) -> list[int]:
    """Version numbers that a model's folder has, ascending; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())


def _newest(folder: Path) -> tuple[int, VersionManifest]:
    """The newest version that has a graph, and what the manifest says of it."""
    described = _described(folder)
    newest = max(described)
    return newest, described[newest]


def _version(folder: Path, version: int) -> tuple[int, VersionManifest]:
    described = _described(folder)
    if version not in described:
        there = ", ".join(map(str, described))
        raise RepositoryError(f"{folder}: it has no version {version}; there are: {there}")
    return version, described[version]


def _described(folder: Path) -> dict[int, VersionManifest]:
    """The versions that have a graph, ascending, and what the manifest says of them."""
    try:
        manifest = read_model_manifest(folder / MANIFEST_FILE)
    except ManifestError as error:
        raise RepositoryError(str(error)) from error
    if manifest.name != folder.name:
        raise RepositoryError(f"{folder}: its manifest is of a model '{manifest.name}'")
    present = [v for v in versions_in(folder) if (folder / str(v) / GRAPH_FILE).is_file()]
    described = {v: manifest.versions[v] for v in present if v in manifest.versions}
    if not described:
        raise RepositoryError(
            f"{folder}: no version with a {GRAPH_FILE} that its manifest describes; "
            "export the model again"
        )
    return described


def _require_digest(manifest: VersionManifest, graph_path: Path) -> None:
    if file_sha256(graph_path) != manifest.files.get(GRAPH_FILE):
        raise RepositoryError(
            f"{graph_path}: its sha256 is not the manifest's; the file is damaged or was replaced"
        )
