"""Names of classes: those of the published data sets, and how a command line names them.

The position of a name is its class id. Torch-free.
"""

import json
from collections.abc import Sequence
from pathlib import Path

#: COCO 2017, in the published order.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

#: DOTA 1.0, in mmrotate's order.
DOTA = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle",
    "ship", "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout",
    "harbor", "swimming-pool", "helicopter",
)  # fmt: skip

_DATA_SETS = {"coco": COCO, "dota": DOTA}


def parse_classes(text: str) -> tuple[str, ...]:
    """The classes that a command line names: `coco`, `dota`, names between commas, or a file.

    A file has one name per line, or is a JSON list. Raises ValueError for names that are empty or
    stand twice, and for a file that is not there.

    >>> parse_classes("cat, dog")
    ('cat', 'dog')
    """
    if text in _DATA_SETS:
        return _DATA_SETS[text]
    path = Path(text)
    if path.suffix in (".txt", ".json", ".names") or "/" in text:
        return checked_classes(_read(path))
    return checked_classes([name.strip() for name in text.split(",")])


def checked_classes(names: Sequence[str], *, num_classes: int | None = None) -> tuple[str, ...]:
    """`names` as a tuple, or a ValueError: none, an empty one, one twice, or a wrong number."""
    if not names:
        raise ValueError("no classes are named")
    for class_id, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"the name of class {class_id} is empty")
        if name in names[:class_id]:
            raise ValueError(f"the class '{name}' is named twice")
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(f"{len(names)} classes are named, but the network has {num_classes}")
    return tuple(names)


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"the file of classes {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the file of classes {path} is not UTF-8 text") from error
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the file of classes {path} is not JSON: {error}") from error
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"the file of classes {path} is not a JSON list of names")
    return names
