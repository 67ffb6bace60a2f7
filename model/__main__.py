"""The commands on models: `rtmdet models import|pull|list` and `rtmdet export`.

    rtmdet models pull rtmdet-tiny
    triton_repo/rtmdet-tiny-coco/1

What needs torch is imported by the commands that need it, so that the others work without.
"""

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.checkpoints.class_names import parse_classes
from model.checkpoints.download import DownloadFailed, download
from model.checkpoints.download_progress import shown
from model.checkpoints.published import BASE_URL, PUBLISHED, PublishedModel, published_model
from model.command_line import one_line_errors, parse_input_size, table
from model.manifest import DEFAULT_THRESHOLDS, VersionManifest
from model.repository import ModelRepository, StoredModel

if TYPE_CHECKING:
    from model.checkpoints.importing import OpenedCheckpoint

app = typer.Typer(
    help="Import, list and export models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Get and list models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")

Repository = Annotated[
    Path, typer.Option(envvar="RTMDET_MODEL_REPOSITORY", help="Folder of models to serve.")
]
Checkpoints = Annotated[Path, typer.Option(help="Folder of checkpoints.")]
Variant = Annotated[
    str | None,
    typer.Option("--model", help="Variant, as in rtmdet-ins-m (default: seen from the weights)."),
]
Classes = Annotated[
    str | None,
    typer.Option(help="coco, dota, names between commas, or a file (default: from the file)."),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Name of the model (default: VARIANT-DATASET; the file's or run's, of ours)."
    ),
]
InputSize = Annotated[
    str | None, typer.Option(help="Pixels: 640, or HEIGHTxWIDTH (default: the variant's).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoExport = Annotated[bool, typer.Option("--no-export", help="Write the checkpoint alone.")]

DEFAULT_REPOSITORY = Path("triton_repo")
DEFAULT_CHECKPOINTS = Path("checkpoints")


# ------------------------------------------------------------------------------- import and export


@models.command(
    "import",
    epilog="Example: rtmdet models import epoch_300.pth --model rtmdet-tiny --classes cat,dog",
)
@one_line_errors
def import_model(  # noqa: PLR0913 - one parameter for each option of the command
    checkpoint: Annotated[Path, typer.Argument(help="A .pth of mmdet, mmrotate or mmyolo.")],
    model: Variant = None,
    classes: Classes = None,
    name: Name = None,
    input_size: InputSize = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Take the weights before averaging, if it has both.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint of that name.")
    ] = False,
    no_export: NoExport = False,
    repository: Repository = DEFAULT_REPOSITORY,
    checkpoints: Checkpoints = DEFAULT_CHECKPOINTS,
    json: AsJson = False,
) -> None:
    """Convert a published checkpoint and export it into the model repository."""
    from model.checkpoints.importing import Wanted, import_checkpoint, open_checkpoint

    wanted = Wanted(
        variant=model,
        classes=None if classes is None else parse_classes(classes),
        name=name,
        input_size=parse_input_size(input_size),
        which="plain" if plain else "ema",
    )
    opened = open_checkpoint(checkpoint, wanted)
    path = import_checkpoint(opened, checkpoints, overwrite=overwrite)
    version = None if no_export else _export(opened, repository)
    _present(_outcome(opened, path, version), as_json=json)


@app.command(
    epilog="Example: rtmdet export checkpoints/cats.safetensors --input-size 416x640 --fp16"
)
@one_line_errors
def export(  # noqa: PLR0913 - one parameter for each option of the command
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors of ours, or a .pth.")],
    model: Variant = None,
    classes: Classes = None,
    name: Name = None,
    input_size: InputSize = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Write the graph for fp16 engines beside it.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(help="Predictions kept per image before suppression.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of requests that name none (default: 0.3)."),
    ] = None,
    iou_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the suppression (default: the published one)."),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, help="Of requests that name none (default: 300; of masks 100)."),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    json: AsJson = False,
) -> None:
    """Export a checkpoint as a new version of a model in the repository."""
    from model.checkpoints.importing import Wanted, open_checkpoint

    named = None if classes is None else parse_classes(classes)
    opened = open_checkpoint(checkpoint, Wanted(model, named, name, parse_input_size(input_size)))
    thresholds = {"score": score_threshold, "iou": iou_threshold, "max_detections": max_detections}
    options: dict[str, Any] = {} if candidates is None else {"num_candidates": candidates}
    options["thresholds"] = DEFAULT_THRESHOLDS[opened.manifest.task].model_copy(
        update={name: value for name, value in thresholds.items() if value is not None}
    )
    version = _export(opened, repository, fp16=fp16, **options)
    _present(_outcome(opened, checkpoint, version), as_json=json)


def _export(opened: "OpenedCheckpoint", repository: Path, **options: Any) -> Path:
    from model.export import export_model

    return export_model(opened.network, opened.manifest, repository, name=opened.name, **options)


def _outcome(opened: "OpenedCheckpoint", checkpoint: Path, version: Path | None) -> dict[str, Any]:
    manifest = opened.manifest
    return {
        "name": opened.name,
        "variant": manifest.variant,
        "task": manifest.task,
        "num_classes": len(manifest.classes),
        "input_size": list(manifest.input_size),
        "checkpoint": str(checkpoint),
        "version": None if version is None else str(version),
    }


def _present(outcome: dict[str, Any], *, as_json: bool) -> None:
    """Print the path that was written, or with `as_json` all that is known of it."""
    written = outcome["version"] or outcome["checkpoint"]
    typer.echo(json_format.dumps(outcome) if as_json else written)


# ------------------------------------------------------------------------------------------- pull


@models.command(epilog="Example: rtmdet models pull rtmdet-tiny rtmdet-ins-m-coco")
@one_line_errors
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Published models, or variants of them.")
    ] = None,
    all_detect: Annotated[
        bool, typer.Option("--all-detect", help="Every published model for upright boxes.")
    ] = False,
    mirror: Annotated[
        str, typer.Option(envvar="RTMDET_MIRROR", help="Server with the published files.")
    ] = BASE_URL,
    no_export: NoExport = False,
    repository: Repository = DEFAULT_REPOSITORY,
    checkpoints: Checkpoints = DEFAULT_CHECKPOINTS,
    json: AsJson = False,
) -> None:
    """Download published weights, convert them and export them into the model repository."""
    wanted = {each.name: each for each in map(published_model, names or ())}
    if all_detect:
        wanted |= {each.name: each for each in PUBLISHED.values() if each.task == "detect"}
    if not wanted:
        raise ValueError("name a published model (see 'rtmdet models list'), or say --all-detect")
    if not no_export:
        # Better to miss it now than after a long download.
        import model.export  # noqa: F401
    for published in wanted.values():
        outcome = _served_already(published, repository)
        if outcome is None or no_export:
            file = _fetch(published, mirror, checkpoints / "published")
            outcome = _convert(published, file, checkpoints, None if no_export else repository)
        _present(outcome, as_json=json)


def _served_already(published: PublishedModel, repository: Path) -> dict[str, Any] | None:
    """What stands in the repository, if it was made of this published file."""
    for stored in ModelRepository(repository).stored():
        manifest = stored.manifest
        if stored.name != published.name or manifest is None or not stored.versions:
            continue
        if (manifest.source.sha256 or "").startswith(published.sha256_prefix):
            return {
                "name": stored.name,
                "variant": manifest.variant,
                "task": manifest.task,
                "num_classes": len(manifest.classes),
                "input_size": list(manifest.input_size),
                "checkpoint": None,
                "version": str(repository / stored.name / str(stored.versions[-1])),
            }
    return None


def _fetch(published: PublishedModel, mirror: str, folder: Path) -> Path:
    """Download the published file, or say how to bring it by hand."""
    url = f"{mirror.rstrip('/')}/{published.path}"
    path = folder / published.file_name
    try:
        with shown(published.name) as progress:
            return download(url, path, sha256_prefix=published.sha256_prefix, progress=progress)
    except DownloadFailed as error:
        raise DownloadFailed(
            f"{error}. To bring it by hand, fetch {published.url} elsewhere, "
            f"{_by_hand(published, path)}"
        ) from error


def _by_hand(published: PublishedModel, path: Path) -> str:
    """What to do with a published file that came another way."""
    if published.task == "classify":
        return f"and put it at {path}: training starts from it"
    return f"then: rtmdet models import {published.file_name} --model {published.variant}"


def _convert(
    published: PublishedModel, file: Path, checkpoints: Path, repository: Path | None
) -> dict[str, Any]:
    if published.task == "classify":
        # Training starts from it; there is nothing to serve.
        return {
            "name": published.name,
            "variant": published.variant,
            "task": published.task,
            "checkpoint": str(file),
            "version": None,
        }
    from model.checkpoints.importing import Wanted, import_checkpoint, open_checkpoint

    wanted = Wanted(published.variant, published.classes, published.name)
    opened = open_checkpoint(file, wanted)
    path = import_checkpoint(opened, checkpoints)
    version = None if repository is None else _export(opened, repository)
    return _outcome(opened, path, version)


# ------------------------------------------------------------------------------------------- list


@models.command("list", epilog="Example: rtmdet models list --json")
@one_line_errors
def list_models(repository: Repository = DEFAULT_REPOSITORY, json: AsJson = False) -> None:
    """List the models of the repository, and the published ones that can be pulled."""
    stored = ModelRepository(repository).stored()
    if json:
        listing = {
            "repository": str(repository),
            "models": [_described(model) for model in stored],
            "published": [_described_published(each) for each in PUBLISHED.values()],
        }
        typer.echo(json_format.dumps(listing))
        return
    if stored:
        header = ("MODEL", "TASK", "CLASSES", "INPUT", "VERSIONS", "METRICS")
        typer.echo(table(header, [_row(model) for model in stored]))
        for model in stored:
            if model.problem is not None:
                typer.echo(f"{model.name} is broken: {model.problem}")
    else:
        typer.echo(f"no models in {repository}")
    header = ("CAN BE PULLED", "TASK", "DATA SET", "INPUT", "PARAMETERS", "METRICS")
    rows = [_published_row(each) for each in PUBLISHED.values()]
    typer.echo("\n" + table(header, rows))


def _described(model: StoredModel) -> dict[str, Any]:
    manifest = model.manifest
    if manifest is None:
        return {"name": model.name, "problem": model.problem}
    return {
        "name": model.name,
        "variant": manifest.variant,
        "task": manifest.task,
        "classes": list(manifest.classes),
        "input_size": list(manifest.input_size),
        "versions": list(model.versions),
        "metrics": manifest.metrics,
        "evaluations": [each.model_dump() for each in manifest.evaluations],
        "source": manifest.source.model_dump(exclude_none=True),
    }


def _described_published(published: PublishedModel) -> dict[str, Any]:
    return {
        "name": published.name,
        "variant": published.variant,
        "task": published.task,
        "dataset": published.dataset,
        "input_size": [published.input_side, published.input_side],
        "metrics": published.fractions,
        "params_m": published.params_m,
        "gflops": published.gflops,
        "url": published.url,
    }


def _row(model: StoredModel) -> tuple[str, ...]:
    manifest = model.manifest
    if manifest is None:
        return (model.name, "broken", "", "", "", "")
    height, width = manifest.input_size
    return (
        model.name,
        manifest.task,
        str(len(manifest.classes)),
        f"{height}x{width}",
        ", ".join(map(str, model.versions)),
        _metrics(_best_known(manifest)),
    )


def _best_known(manifest: VersionManifest) -> Mapping[str, float]:
    """The metrics of the exported graph where it was measured, else those of its weights.

    Of several evaluations the first one at published settings; the leading figures of each kind.
    """
    published = [each for each in manifest.evaluations if each.settings == "published"]
    if not published:
        return manifest.metrics
    shown = ("box_ap", "mask_ap", "rotated_ap50")
    metrics = published[0].metrics
    return {name: metrics[name] for name in shown if name in metrics}


def _published_row(published: PublishedModel) -> tuple[str, ...]:
    return (
        published.name,
        published.task,
        published.dataset,
        f"{published.input_side}x{published.input_side}",
        f"{published.params_m} M" if published.params_m else "",
        _metrics(published.fractions),
    )


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())


if __name__ == "__main__":
    app()
