"""Dynamic soft-label assignment: which priors learn which instance of an image.

Every prior inside any instance has a cost for every instance (section 3.3 of arXiv 2212.07784):
how wrong its scores are, how little its box overlaps, how far it stands from the centre. An
instance takes as many of its cheapest priors as the sum of its best overlaps says. The work is
done on blocks of instances, and scores enter through one class at a time, so that memory stays
bounded by `max_pairs` whatever an image holds.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import box_overlaps
from training.rotated_overlaps import rotated_overlaps
from training.targets import ImageTargets

#: Pairs of prior and instance that are looked at together; a pair takes some 60 bytes meanwhile.
MAX_PAIRS = 2**18

_OVERLAP_WEIGHT = 3.0
_OVERLAP_EPSILON = 1e-7
#: Strides from the centre at which the centre's cost is 1.
_SOFT_RADIUS = 3.0
#: How far inside a rotated instance a prior must stand, in pixels.
_ROTATED_MARGIN = 0.01


class Assignment(NamedTuple):
    """The k priors of an image that learn an instance; all others learn the background.

    `priors` int64 [k], ascending; `instances` int64 [k], rows of the image's targets; `overlaps`
    float32 [k]: what the prior's box overlaps with its instance's, its target score and weight.
    """

    priors: Tensor
    instances: Tensor
    overlaps: Tensor


@torch.no_grad()
def assign(
    priors: Tensor,
    logits: Tensor,
    boxes: Tensor,
    targets: ImageTargets,
    *,
    topk: int,
    max_pairs: int = MAX_PAIRS,
) -> Assignment:
    """Assign the p priors of one image.

    `priors` [p, 3] of (x, y, stride), `logits` [classes, p], `boxes` [4, p] xyxy or [5, p]
    rotated, decoded and not clamped; all float32. `topk` is how many overlaps an instance's number
    of priors is the sum of. At most `max_pairs` pairs, and always one instance with all priors,
    are looked at together; the result does not depend on it. A prior that several instances take
    goes to the cheapest of all instances, not only of those, and of equals to the first.
    """
    inside = _inside_any(priors, targets.boxes, max_pairs)
    candidates = inside.nonzero().squeeze(1)
    # Without instances there are none.
    if not len(candidates):
        nothing = candidates.new_zeros(0)
        return Assignment(nothing, nothing, priors.new_zeros(0))
    classes = ClassCosts.of(logits[:, candidates])
    standing, boxes = priors[candidates].T.contiguous(), boxes[:, candidates]
    choice = _Choice.among(candidates)
    for block in _blocks(len(targets.labels), len(candidates), max_pairs):
        overlaps = _overlaps(targets.boxes[block], boxes)
        cost = (
            classes.cost(targets.labels[block], overlaps)
            + overlap_cost(overlaps)
            + centre_cost(standing, _centres(targets)[block])
        )
        choice.add(block.start, cost, overlaps, topk)
    taken, instances, matched = choice.result()
    return Assignment(candidates[taken], instances, matched)


class ClassCosts(NamedTuple):
    """What is needed of the scores, [classes, p] each, and the cost of background [p].

    The published cost sums the quality focal loss over all classes with the overlap as target of
    the instance's own class. For the others the target is 0, so that it is the cost of
    "background everywhere", corrected in one class: no tensor of priors x instances x classes.
    """

    logits: Tensor
    sigmoid: Tensor
    softplus: Tensor
    background: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "ClassCosts":
        """From `logits` [classes, p]."""
        sigmoid, softplus = logits.sigmoid(), F.softplus(logits)
        return cls(logits, sigmoid, softplus, (softplus * sigmoid**2).sum(dim=0))

    def cost(self, labels: Tensor, overlaps: Tensor) -> Tensor:
        """The scores' part of the cost [g, p] of instances with `labels` [g]."""
        sigmoid, softplus = self.sigmoid[labels], self.softplus[labels]
        cross_entropy = softplus - self.logits[labels] * overlaps
        own = cross_entropy * (overlaps - sigmoid) ** 2
        return self.background - softplus * sigmoid**2 + own


def overlap_cost(overlaps: Tensor) -> Tensor:
    """The overlap's part of the cost, elementwise."""
    return -torch.log(overlaps + _OVERLAP_EPSILON) * _OVERLAP_WEIGHT


def centre_cost(priors: Tensor, centres: Tensor) -> Tensor:
    """The distance's part of the cost [g, p]: 1 at three strides, ten times that at four.

    `priors` [3, p] rows x, y, stride; `centres` [g, 2]. It is infinite far away.
    """
    x, y, stride = priors
    distance = ((x - centres[:, :1]) ** 2 + (y - centres[:, 1:]) ** 2).sqrt() / stride
    return torch.pow(10.0, distance - _SOFT_RADIUS)


def num_wanted(overlaps: Tensor, topk: int) -> Tensor:
    """How many priors each instance takes: its best overlaps [g, p] summed, cut off: int64 [g]."""
    best = overlaps.topk(min(topk, overlaps.shape[1]), dim=1).values
    return best.sum(dim=1).long().clamp(min=1)


class _Choice(NamedTuple):
    """What blocks of instances have chosen so far, by candidate [v].

    `cheapest_*`: the instance of least cost. `num_takers`; the sums over all takers, which mean
    something where there is one.
    """

    cheapest_cost: Tensor
    cheapest_instance: Tensor
    cheapest_overlap: Tensor
    num_takers: Tensor
    sum_of_takers: Tensor
    sum_of_overlaps: Tensor

    @classmethod
    def among(cls, candidates: Tensor) -> "_Choice":
        """Nothing chosen. `candidates` int64 [v]."""
        counts = torch.zeros_like(candidates)
        zeros = torch.zeros(len(candidates), device=candidates.device)
        return cls(
            torch.full_like(zeros, torch.inf),
            counts.clone(),
            zeros.clone(),
            counts.clone(),
            counts.clone(),
            zeros,
        )

    def add(self, start: int, cost: Tensor, overlaps: Tensor, topk: int) -> None:
        """Add a block: `cost` and `overlaps` [g, v] of the instances from `start` on."""
        lowest, instance = cost.min(dim=0)
        # Strictly lower, so that of equals, infinite ones too, the first instance stays.
        lower = (lowest < self.cheapest_cost) | (start == 0)
        overlap = overlaps.gather(0, instance[None])[0]
        self.cheapest_cost.copy_(torch.where(lower, lowest, self.cheapest_cost))
        self.cheapest_instance.copy_(torch.where(lower, instance + start, self.cheapest_instance))
        self.cheapest_overlap.copy_(torch.where(lower, overlap, self.cheapest_overlap))

        columns = cost.topk(min(topk, cost.shape[1]), dim=1, largest=False).indices
        rank = torch.arange(columns.shape[1], device=cost.device)
        takes = (rank < num_wanted(overlaps, topk)[:, None]).long()
        takers = torch.arange(start, start + len(cost), device=cost.device)
        self.num_takers.index_add_(0, columns.flatten(), takes.flatten())
        self.sum_of_takers.index_add_(0, columns.flatten(), (takes * takers[:, None]).flatten())
        self.sum_of_overlaps.index_add_(
            0, columns.flatten(), (takes * overlaps.gather(1, columns)).flatten()
        )

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [k] of the candidates taken, their instances and overlaps."""
        taken = self.num_takers.nonzero().squeeze(1)
        contested = self.num_takers[taken] > 1
        instances = torch.where(contested, self.cheapest_instance[taken], self.sum_of_takers[taken])
        overlaps = torch.where(contested, self.cheapest_overlap[taken], self.sum_of_overlaps[taken])
        return taken, instances, overlaps


def _blocks(num_instances: int, num_priors: int, max_pairs: int) -> Iterator[slice]:
    size = max(1, max_pairs // max(1, num_priors))
    for start in range(0, num_instances, size):
        yield slice(start, min(start + size, num_instances))


def _inside_any(priors: Tensor, boxes: Tensor, max_pairs: int) -> Tensor:
    """Which priors [p] stand inside any of the instances."""
    inside = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
    points = priors[:, :2].T.contiguous()
    for block in _blocks(len(boxes), len(priors), max_pairs):
        inside |= inside_boxes(points, boxes[block]).any(dim=0)
    return inside


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points [2, p] lie inside which boxes: bool [g, p].

    Inside upright boxes [g, 4] means within all edges, strictly; inside rotated boxes [g, 5], by
    at least a hundredth of a pixel. Reference quirk, both.
    """
    x, y = points
    if boxes.shape[1] == 4:
        left, top, right, bottom = boxes.T.unsqueeze(-1)
        return (x > left) & (y > top) & (x < right) & (y < bottom)
    cx, cy, width, height, angle = boxes.T.unsqueeze(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    along, across = (x - cx) * cos + (y - cy) * sin, (y - cy) * cos - (x - cx) * sin
    return (along.abs() <= width / 2 - _ROTATED_MARGIN) & (
        across.abs() <= height / 2 - _ROTATED_MARGIN
    )


def _overlaps(instances: Tensor, boxes: Tensor) -> Tensor:
    """Overlaps [g, v] of instances [g, 4 or 5] and predicted boxes [4 or 5, v]."""
    if len(boxes) == 5:
        return rotated_overlaps(instances, boxes.T)
    return box_overlaps(instances.T.unsqueeze(-1), boxes.unsqueeze(1))


def _centres(targets: ImageTargets) -> Tensor:
    """Centres [g, 2]: of mass where there are masks, else of the boxes."""
    if targets.centres is not None:
        return targets.centres
    if targets.boxes.shape[1] == 5:
        return targets.boxes[:, :2]
    return (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2
