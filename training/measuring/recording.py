"""What was measured of an exported version, written into its manifest."""

import os

from model.manifest import MANIFEST_FILE, Evaluation, read_model_manifest, write_manifest
from model.repository import RepositoryModel


def record(model: RepositoryModel, evaluation: Evaluation) -> None:
    """Add the evaluation to the version's manifest, in the place of one made in the same way.

    Raises ValueError where the manifest has another graph by now, and OSError where it cannot be
    written; then it stays as it is.
    """
    path = model.graph_path.parent.parent / MANIFEST_FILE
    manifest = read_model_manifest(path)
    version = manifest.versions.get(model.version)
    if version is None or version.files != model.manifest.files:
        raise ValueError(f"{path}: version {model.version} was changed meanwhile; nothing recorded")
    others = [each for each in version.evaluations if _way(each) != _way(evaluation)]
    changed = version.model_copy(update={"evaluations": (*others, evaluation)})
    versions = manifest.versions | {model.version: changed}
    write_manifest(manifest.model_copy(update={"versions": versions}), path)


def require_recordable(model: RepositoryModel) -> None:
    """Raise ValueError where the manifest cannot be written: better before the work."""
    folder = model.graph_path.parent.parent
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--record: {folder} cannot be written")


def _way(evaluation: Evaluation) -> Evaluation:
    """What two evaluations must share for the newer to replace the older."""
    return evaluation.model_copy(update={"metrics": {}, "date": ""})
