"""Mix-up: two finished samples, blended half and half, with the instances of both.

Differs from the published arithmetic in rounding the blend instead of cutting its fraction off.
"""

import cv2
import numpy as np

from training.config import MixUpConfig
from training.data.annotations import Annotations, Outline
from training.data.sampling.geometry import mirroring, moved_boxes, moved_rotated_boxes
from training.data.sampling.images import Pixels
from training.data.sampling.painting import paint
from training.data.sampling.placements import Layout, draw_rescaled
from training.data.sampling.placing import ROTATED, place_annotations
from training.data.sampling.samples import Instances, Sample, joined


def mixed(sample: Sample, partner: Sample, config: MixUpConfig, rng: np.random.Generator) -> Sample:
    """`sample` blended with `partner`, which is flipped and rescaled as `config` has it.

    Reads from both and changes neither.
    """
    flipped = rng.random() < config.flip_probability
    low, high = config.scale_range
    scale = low + (high - low) * rng.random()
    if scale == 1.0:
        image, instances = _flipped(partner) if flipped else (partner.image, partner.instances)
    else:
        size = partner.image.shape[0], partner.image.shape[1]
        layout = draw_rescaled(size, scale, rng, across=flipped)
        image, instances = _rescaled(partner, layout)
    blended = cv2.addWeighted(sample.image, 0.5, image, 0.5, 0)
    return Sample(
        blended,  # type: ignore[arg-type]
        joined([sample.instances, instances]),
        sample.problems,
    )


def _flipped(sample: Sample) -> tuple[Pixels, Instances]:
    height, width = sample.image.shape[:2]
    mirror = mirroring(width, height, across=True, down=False)
    boxes, labels, bitmaps = sample.instances
    moved = moved_rotated_boxes if boxes.shape[1] == ROTATED else moved_boxes
    if bitmaps is not None:
        bitmaps = tuple(bitmap.mirrored(width) for bitmap in bitmaps)
    image = cv2.flip(sample.image, 1)
    return image, Instances(moved(boxes, mirror), labels, bitmaps)  # type: ignore[return-value]


def _rescaled(sample: Sample, layout: Layout) -> tuple[Pixels, Instances]:
    boxes, labels, bitmaps = sample.instances
    outlines = None
    if bitmaps is not None:
        outlines = tuple(Outline(bitmap=each.pixels, origin=(each.x, each.y)) for each in bitmaps)
    size = sample.image.shape[0], sample.image.shape[1]
    placed = place_annotations(Annotations(boxes, labels, outlines), layout.placements[0], layout)
    return paint(layout, [sample.image], size, None), placed
