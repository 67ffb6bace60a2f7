"""Which data set lies in a folder, and where its parts are: COCO, DOTA or YOLO.

Only names of files are looked at here, and YOLO's `data.yaml`. The readers of what is found are
the siblings `coco`, `dota` and `yolo`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.config import Task
from training.data.formats.checks import broken
from training.data.formats.near_misses import near_miss
from training.data.formats.yolo_yaml import YoloYaml, named_classes, read_yolo_yaml

DataFormat = Literal["coco", "dota", "yolo"]
Split = Literal["train", "val"]

#: How folders and files of a split are called.
_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "train2017", "trainval"),
    "val": ("val", "valid", "validation", "val2017"),
}

LABELS_OF_DOTA = ("labelTxt", "labelTxt-v1.0", "labelTxt-v1.5", "labelTxt-v2.0", "annfiles")
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")

UNDERSTOOD = (
    "COCO: annotations/instances_train*.json, or instances_train.json or train.json beside a "
    "folder of images, or train/_annotations.coco.json; "
    "DOTA: train/images and train/labelTxt; "
    "YOLO: data.yaml, or images/train and labels/train, or train/images and train/labels"
)


@dataclass(frozen=True)
class DataSource:
    """One split of a data set on disk.

    `annotations`: COCO: the one JSON file; DOTA: the folder of label files; YOLO: `data.yaml`
    where there is one. `images`: folders; for COCO those in which the images may lie, likely ones
    first; for YOLO also text files that list images. `names` are YOLO's classes, by number.
    """

    format: DataFormat
    split: Split
    annotations: tuple[Path, ...]
    images: tuple[Path, ...]
    names: tuple[str, ...] | None = None

    @property
    def path(self) -> Path:
        """What messages name."""
        return (*self.annotations, *self.images)[0]


@dataclass(frozen=True)
class DataSources:
    """What to train on, and what to evaluate on, if there is such a split."""

    train: DataSource
    val: DataSource | None


def find_data(path: Path, task: Task) -> DataSources:
    """The data set that lies in the folder `path`, or that a `data.yaml` at `path` describes.

    Raises ValueError: no folder, no layout that is known (and what is missing, where it nearly is
    one), or one that has not what `task` needs.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no such folder")
    for find in _finders(task):
        train = find(path, "train")
        if train is not None:
            _require_suited(path, train, task)
            return DataSources(train, find(path, "val"))
    missing = near_miss(
        path, _is_data_set, train_names=_SPLIT_NAMES["train"], labels_of_dota=LABELS_OF_DOTA
    )
    what = f"no data set is recognised here{f': {missing}' if missing else ''}"
    raise ValueError(f"{path}: {what}; understood are {UNDERSTOOD}")


def find_split(path: Path, split: Split, task: Task) -> DataSource:
    """One split of the data set at `path`, which may also be a COCO JSON file itself.

    Raises ValueError as `find_data` does, and where there is no such split.
    """
    if path.is_file() and path.suffix == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        return _coco_source(root, split, path)
    for find in _finders(task) if path.exists() else ():
        found = find(path, split)
        if found is not None:
            _require_suited(path, found, task)
            return found
    other: Split = "train" if split == "val" else "val"
    if path.exists() and any(find(path, other) for find in _FINDERS):
        raise ValueError(f"{path}: there is no split '{split}' in it, only '{other}'")
    return find_data(path, task).train  # which says what is wrong


def other_splits(path: Path) -> list[Path]:
    """Folders and files of the data set at `path` that look like those of a split to test on."""
    root = path if path.is_dir() else path.parent
    places = [root / "test", root / "images" / "test", root / "test.json"]
    found = [*places, *sorted((root / "annotations").glob("*test*.json"))]
    return [place for place in found if place.exists()]


def _require_suited(path: Path, source: DataSource, task: Task) -> None:
    if task == "instance" and source.format == "dota":
        raise ValueError(
            f"{path}: a DOTA data set has no outlines of instances; train a rotated model "
            "on it, or give COCO JSON or YOLO polygons"
        )


def _finders(task: Task) -> tuple[Callable[[Path, Split], DataSource | None], ...]:
    return _FINDERS_OF_ROTATED if task == "rotated" else _FINDERS


def _is_data_set(path: Path) -> bool:
    try:
        return any(find(path, "train") is not None for find in _FINDERS)
    except ValueError:
        # One that must be mended.
        return True
    except OSError:
        return False


def _find_coco(root: Path, split: Split) -> DataSource | None:
    annotations = _coco_file(root, split)
    return None if annotations is None else _coco_source(root, split, annotations)


def _coco_source(root: Path, split: Split, annotations: Path) -> DataSource:
    stem = annotations.stem.removeprefix("instances_")
    names = dict.fromkeys((stem, *_SPLIT_NAMES[split]))
    candidates = [annotations.parent] if annotations.name.startswith("_") else []
    for base in dict.fromkeys((root, root / "images", annotations.parent)):
        candidates += [base / name for name in names]
    candidates += [*(root / name / "images" for name in names), root / "images", root]
    folders = tuple(folder for folder in candidates if folder.is_dir())
    return DataSource("coco", split, (annotations,), folders)


def _coco_file(root: Path, split: Split) -> Path | None:
    names = _SPLIT_NAMES[split]
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if len(found) > 1:
        listed = ", ".join(file.name for file in found)
        raise ValueError(f"{root}/annotations: which is it, {listed}? Leave one there")
    candidates = found
    candidates += [
        folder / f"{prefix}{name}.json"
        for folder in (root, root / "annotations")
        for prefix in ("instances_", "")
        for name in names
    ]
    candidates += [root / name / "_annotations.coco.json" for name in names]
    return next((file for file in candidates if file.is_file()), None)


def _find_dota(root: Path, split: Split) -> DataSource | None:
    for name in _SPLIT_NAMES[split]:
        images = root / name / "images"
        for labels_name in LABELS_OF_DOTA:
            labels = root / name / labels_name
            # The published archives hold a folder of the same name once more.
            inner = labels / "labelTxt"
            if images.is_dir() and labels.is_dir():
                return DataSource("dota", split, (inner if inner.is_dir() else labels,), (images,))
    return None


def _find_yolo(root: Path, split: Split) -> DataSource | None:
    description = _yolo_yaml(root)
    if description is not None and (description.train or description.val):
        images = description.train if split == "train" else description.val
        if not images:
            return None
        return DataSource("yolo", split, (description.file,), images, description.names)
    for name in _SPLIT_NAMES[split]:
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if images.is_dir() and labels.is_dir():
                names = _listed_names(root) if description is None else description.names
                return DataSource("yolo", split, (), (images,), names)
    return None


def _yolo_yaml(root: Path) -> YoloYaml | None:
    if root.is_file():
        return read_yolo_yaml(root) if root.suffix in (".yaml", ".yml") else None
    files = (root / name for name in _YAML_NAMES)
    return next((read_yolo_yaml(file) for file in files if file.is_file()), None)


def _listed_names(root: Path) -> tuple[str, ...] | None:
    """What `classes.txt`, which labelling tools write, says: one name per line."""
    file = root / "classes.txt"
    if not file.is_file():
        return None
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise broken(file, f"cannot be read as text: {error}") from error
    return named_classes(file, [line.strip() for line in lines if line.strip()])


_FINDERS = (_find_coco, _find_dota, _find_yolo)
#: Where several formats annotate the same images, DOTA's has the rotated boxes.
_FINDERS_OF_ROTATED = (_find_dota, _find_coco, _find_yolo)
