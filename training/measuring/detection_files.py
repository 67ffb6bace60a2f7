"""What was found, as a file for other tools: COCO's results, or DOTA's Task 1.

Upright boxes and masks become COCO's JSON of results. Rotated boxes become a ZIP of one text per
class, `Task1_NAME.txt`, each line an image's name, a score and four corners: what DOTA's server
takes.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.durable import move_into_place, part_of
from model.rotated_iou import rotated_corners
from training.evaluation.evaluator import Evaluated
from training.measuring.data import LabelledForModel


def require_suffix(path: Path, *, rotated: bool) -> None:
    """Raise ValueError unless the file's name says what will be in it."""
    suffix = ".zip" if rotated else ".json"
    if path.suffix != suffix:
        what = "DOTA's texts, one per class," if rotated else "COCO's results"
        raise ValueError(f"--detections {path}: {what} go into a file NAME{suffix}")


def write_detections(path: Path, evaluated: Evaluated, images: LabelledForModel) -> int:
    """Write what was found; appears whole. How many detections were left out.

    In COCO's results there is no place for classes that the data do not list.
    """
    part = part_of(path)
    found = evaluated.found
    try:
        if found.boxes.shape[1] == 5:
            _write_zip(part, evaluated, images)
            left_out = 0
        else:
            results = list(_coco_results(evaluated, images))
            part.write_text(json.dumps(results), "utf-8")
            left_out = len(found) - len(results)
        move_into_place(part, path)
    finally:
        part.unlink(missing_ok=True)
    return left_out


def _coco_results(evaluated: Evaluated, images: LabelledForModel) -> Iterator[dict[str, Any]]:
    found, truth = evaluated.found, evaluated.truth
    ids = images.category_ids()
    for row, (place, label) in enumerate(
        zip(found.images.tolist(), found.labels.tolist(), strict=True)
    ):
        category = ids.get(label, -1)
        if category < 0:
            continue
        x1, y1, x2, y2 = (float(side) for side in found.boxes[row])
        result: dict[str, Any] = {
            "image_id": images.index.image_id(evaluated.positions[place]),
            "category_id": category,
            "bbox": [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(found.scores[row]), 6),
        }
        if found.masks is not None:
            size = truth.image_sizes[place].tolist()
            result["segmentation"] = {"size": size, "counts": found.masks[row].decode("ascii")}
        yield result


def _write_zip(part: Path, evaluated: Evaluated, images: LabelledForModel) -> None:
    found = evaluated.found
    lines: dict[int, list[str]] = {label: [] for label in range(len(images.classes))}
    corners = rotated_corners(found.boxes).reshape(-1, 8) if len(found) else []
    for row, flat in enumerate(corners):
        position = evaluated.positions[int(found.images[row])]
        numbers = " ".join(f"{value:.2f}" for value in flat)
        name = images.image_path(position).stem
        lines[int(found.labels[row])].append(f"{name} {found.scores[row]:.6f} {numbers}\n")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for label, texts in lines.items():
            name = images.classes[label].replace("/", "_")
            archive.writestr(f"Task1_{name}.txt", "".join(texts))
