"""Annotations of a layout: they follow their image's pixels, and lose what is not seen."""

import numpy as np

from training.data.annotations import Annotations, Outline
from training.data.sampling.geometry import (
    Affine,
    Window,
    centres_inside,
    clipped_boxes,
    have_area,
    moved_boxes,
    moved_rotated_boxes,
    then,
)
from training.data.sampling.masks import place_outlines
from training.data.sampling.placements import Layout, Placement
from training.data.sampling.samples import Instances

#: Columns of a rotated box.
ROTATED = 5


def place_annotations(
    annotations: Annotations, placement: Placement | None, layout: Layout
) -> Instances:
    """The instances of one image that are seen in the finished, mirrored window.

    Upright boxes are cut at the image's region of the window; with outlines they are taken from
    the outlines anew, and an instance of which no pixel is left is dropped. Rotated boxes are not
    cut: one stays when its centre does. Published semantics, reference section 7.
    """
    if placement is None or not len(annotations):
        return _none_of(annotations)
    affine = then(placement.affine, layout.mirror)
    region = placement.region.mirrored(
        layout.width, layout.height, across=layout.across, down=layout.down
    )
    if annotations.boxes.shape[1] == ROTATED:
        return _rotated(annotations, affine, placement.source, region)
    if annotations.outlines is not None:
        return _outlined(annotations, annotations.outlines, affine, region)
    # First at the canvas, which matters when it is turned.
    boxes = clipped_boxes(annotations.boxes, placement.source)
    boxes = clipped_boxes(moved_boxes(boxes, affine), region)
    return Instances(boxes, annotations.labels).where(have_area(boxes))


def _none_of(annotations: Annotations) -> Instances:
    return Instances(
        annotations.boxes[:0],
        annotations.labels[:0],
        None if annotations.outlines is None else (),
    )


def _rotated(annotations: Annotations, affine: Affine, source: Window, region: Window) -> Instances:
    boxes = moved_rotated_boxes(annotations.boxes, affine)
    kept = centres_inside(annotations.boxes, source) & centres_inside(boxes, region)
    return Instances(boxes, annotations.labels).where(kept)


def _outlined(
    annotations: Annotations, outlines: tuple[Outline, ...], affine: Affine, region: Window
) -> Instances:
    near = have_area(clipped_boxes(moved_boxes(annotations.boxes, affine), region))
    indices = np.flatnonzero(near)
    placed = place_outlines([outlines[index] for index in indices], affine, region)
    left = [each for each in placed if each is not None]
    return Instances(
        np.array([each.box for each in left], np.float32).reshape(-1, 4),
        annotations.labels[indices[[each is not None for each in placed]]],
        tuple(each.bitmap for each in left),
    )
