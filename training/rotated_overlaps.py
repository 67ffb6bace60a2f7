"""Exact intersection over union of rotated boxes in torch: differentiable, always in float64.

A rotated box is (cx, cy, w, h, angle): pixels and radians, clockwise positive with y pointing down.
The assigner and the loss of rotated boxes come here; `model.rotated_iou` is its numpy counterpart,
without gradients.
"""

import math

import torch
from torch import Tensor

#: The second box is shrunk by this much, so that edges of equal boxes never coincide.
_RELATIVE_SHRINK = 1e-9
#: Stands for smaller direction components, so that parallel edges divide to a huge finite number
#: and so does the gradient. 1e-200, as good for the value, squares to zero in the gradient.
_PARALLEL = 1e-12
#: Pairs that are computed at a time where no gradient is wanted: working arrays of half a MiB.
_PAIRS_PER_CHUNK = 2**14

#: Bounds of the published overlaps of the assigner: smallest side, largest coordinate.
_MIN_SIDE = 1e-3
_MAX_COORDINATE = 1e7


def paired_rotated_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union, float64 [n], of the pairs boxes_a [n, 5], boxes_b [n, 5].

    A side that is not positive counts as 0, and the ratio of two boxes without area is 0. Values
    and gradients are finite for all finite boxes.
    """
    with torch.autocast(boxes_a.device.type, enabled=False):
        a, b = boxes_a.double().T, boxes_b.double().T
        a_sides, b_sides = a[2:4].clamp(min=0), b[2:4].clamp(min=0)
        area_a, area_b = a_sides.prod(dim=0), b_sides.prod(dim=0)
        intersection = _intersection_area(
            (a[0], a[1], a[4], a_sides / 2), (b[0], b[1], b[4], b_sides / 2)
        )
        # Rounding may leave the sum a little below 0 or above the smaller box.
        intersection = intersection.clamp(min=0).minimum(area_a).minimum(area_b)
        union = area_a + area_b - intersection
        return intersection / torch.where(union > 0, union, 1)


@torch.no_grad()
def rotated_overlaps(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union, float32 [n, m], of every box of [n, 5] with every one of [m, 5].

    As in the published assigner, sides below 1e-3 are taken for 1e-3. Only pairs whose enclosing
    circles touch are computed; that of all others is exactly 0.
    """
    first, second = _bounded(boxes_a), _bounded(boxes_b)
    overlaps = torch.zeros(len(first), len(second), device=boxes_a.device)
    # In float64, so that rounding excludes no pair.
    radius_a = torch.hypot(first[:, 2], first[:, 3]) / 2
    radius_b = torch.hypot(second[:, 2], second[:, 3]) / 2
    reach = radius_a[:, None] + radius_b
    distance = torch.hypot(first[:, None, 0] - second[:, 0], first[:, None, 1] - second[:, 1])
    rows, columns = (distance <= reach).nonzero(as_tuple=True)
    for start in range(0, len(rows), _PAIRS_PER_CHUNK):
        row = rows[start : start + _PAIRS_PER_CHUNK]
        column = columns[start : start + _PAIRS_PER_CHUNK]
        overlaps[row, column] = paired_rotated_iou(first[row], second[column]).float()
    return overlaps


def regularised(boxes: Tensor) -> Tensor:
    """The same rectangles [n, 5] with w >= h and an angle in [-pi/2, pi/2): the le90 convention."""
    cx, cy, width, height, angle = boxes.unbind(-1)
    upright = width < height
    angle = torch.where(upright, angle + math.pi / 2, angle) + math.pi / 2
    angle = angle.remainder(math.pi) - math.pi / 2
    longer, shorter = torch.maximum(width, height), torch.minimum(width, height)
    return torch.stack((cx, cy, longer, shorter, angle), dim=-1)


def _bounded(boxes: Tensor) -> Tensor:
    """float64, no side below 1e-3, no centre beyond 1e7."""
    centre, sides, angle = boxes.double().split((2, 2, 1), dim=1)
    centre = centre.clamp(-_MAX_COORDINATE, _MAX_COORDINATE)
    return torch.cat((centre, sides.clamp(min=_MIN_SIDE), angle), dim=1)


#: Centre x and y [n], angle [n], half width and half height [2, n].
_Box = tuple[Tensor, Tensor, Tensor, Tensor]


def _intersection_area(a: _Box, b: _Box) -> Tensor:
    """Area [n] common to the boxes a and b.

    By Green's theorem the area is half the sum, over the eight edges, of the length that lies
    inside the other box times the distance of the edge's line from the origin, positive where the
    origin lies inside. So neither corners nor their order are needed. The origin is a's centre.
    """
    a_x, a_y, a_angle, a_half = a
    b_x, b_y, b_angle, b_half = b
    b_half = b_half * (1 - _RELATIVE_SHRINK)
    a_cos, a_sin = torch.cos(a_angle), torch.sin(a_angle)
    cos, sin = torch.cos(b_angle - a_angle), torch.sin(b_angle - a_angle)
    # The centre of b along the axes of a, then along its own.
    shift_x, shift_y = b_x - a_x, b_y - a_y
    x, y = shift_x * a_cos + shift_y * a_sin, shift_y * a_cos - shift_x * a_sin
    u, v = x * cos + y * sin, y * cos - x * sin

    # Four pairs of parallel edges [4, n]: of b in the frame of a (along its width, along its
    # height), then of a in the frame of b. The other pair of a box points along the normal.
    half_length = torch.cat((b_half, a_half))
    direction_x = torch.stack((cos, -sin, cos, sin))
    direction_y = torch.stack((sin, cos, -sin, cos))
    to_edge = _other_pair(half_length)
    to_edge_x = to_edge * _other_pair(direction_x)
    to_edge_y = to_edge * _other_pair(direction_y)
    centre_x, centre_y = torch.stack((x, x, -u, -u)), torch.stack((y, y, -v, -v))
    zero = torch.zeros_like(u)
    centre_distance = torch.stack((v, u, zero, zero))
    clip_x = torch.stack((a_half[0], a_half[0], b_half[0], b_half[0]))
    clip_y = torch.stack((a_half[1], a_half[1], b_half[1], b_half[1]))
    inverse_x, inverse_y = _reciprocal(direction_x), _reciprocal(direction_y)

    area = zero
    for side in (1.0, -1.0):
        middle_x, middle_y = centre_x + side * to_edge_x, centre_y + side * to_edge_y
        # Where the edge's line crosses the two slabs whose common part is the other box.
        x_one, x_two = (clip_x - middle_x) * inverse_x, (-clip_x - middle_x) * inverse_x
        y_one, y_two = (clip_y - middle_y) * inverse_y, (-clip_y - middle_y) * inverse_y
        enters = torch.minimum(x_one, x_two).maximum(torch.minimum(y_one, y_two))
        leaves = torch.maximum(x_one, x_two).minimum(torch.maximum(y_one, y_two))
        inside = leaves.minimum(half_length) - enters.maximum(-half_length)
        distance = to_edge + side * centre_distance
        area = area + (inside.clamp(min=0) * distance).sum(dim=0)
    return area / 2


def _other_pair(edges: Tensor) -> Tensor:
    """Exchange the two pairs of edges in both boxes' halves of [4, n]."""
    return edges.unflatten(0, (2, 2)).flip(1).flatten(0, 1)


def _reciprocal(direction: Tensor) -> Tensor:
    return 1 / torch.where(direction.abs() < _PARALLEL, _PARALLEL, direction)
