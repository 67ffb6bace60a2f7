"""What stands in a model repository, as its manifests say. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from model.manifest import MANIFEST_FILE, ManifestError, ModelManifest, read_model_manifest


@dataclass(frozen=True)
class StoredModel:
    """A folder of the repository: its manifest, or why it has none that can be read."""

    name: str
    versions: tuple[int, ...]
    manifest: ModelManifest | None
    problem: str | None = None


def stored_models(repository: Path) -> list[StoredModel]:
    """Every model in the repository, by name; none where there is no such folder."""
    if not repository.is_dir():
        return []
    folders = sorted(entry for entry in repository.iterdir() if (entry / MANIFEST_FILE).exists())
    return [_stored_model(folder) for folder in folders]


def _stored_model(folder: Path) -> StoredModel:
    versions = tuple(sorted(int(part.name) for part in folder.iterdir() if part.name.isdecimal()))
    try:
        manifest = read_model_manifest(folder / MANIFEST_FILE)
    except ManifestError as error:
        return StoredModel(folder.name, versions, None, str(error))
    return StoredModel(folder.name, versions, manifest)
