"""Assignment and losses of one image on one core, beside the plain ways to do the same.

    OMP_NUM_THREADS=1 python -m benchmarks.criterion

Prints, from 10 to 1000 instances in an image, the best time in milliseconds and the peak of what
is allocated meanwhile in MiB, ours first, and whether the results agree.
"""

import platform
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.boxes import input_priors
from tests.allocations import peak_bytes
from training.assignment import Assignment, assign, centre_cost, inside_boxes, overlap_cost
from training.losses import box_overlaps, dice_loss, rotated_iou_loss
from training.mask_loss import MaskPositives, mask_logits, mask_loss
from training.rotated_overlaps import paired_rotated_iou, rotated_overlaps
from training.targets import ImageTargets, unpack_masks

COUNTS = (10, 100, 1000)
INPUT_SIZE = (640, 640)
NUM_CLASSES = 80
TOPK = 13
CHUNK_MIB = 256
#: A plain way that allocates more is left out.
MAX_NAIVE_MIB = 2000

RANDOM = torch.Generator().manual_seed(30)


def row(name: str, function: Callable[[], object], remark: str = "") -> None:
    """Best of up to ten calls within half a second, at least one; then the peak of another."""
    durations: list[float] = []
    while len(durations) < 10 and sum(durations) < 500:
        start = time.perf_counter()
        function()
        durations.append((time.perf_counter() - start) * 1e3)
    peak = peak_bytes(function) / 2**20
    print(f"{name:<62} {min(durations):9.1f} ms {peak:8.1f} MiB   {remark}", flush=True)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    """Random numbers."""
    return low + (high - low) * torch.rand(*shape, generator=RANDOM)


def instances(count: int, *, rotated: bool) -> ImageTargets:
    """Instances with sides of 10 to 160 pixels."""
    height, width = INPUT_SIZE
    centres = uniform(0, 1, count, 2) * torch.tensor([width, height])
    sides = uniform(2.3, 5.1, count, 2).exp()
    if rotated:
        boxes = torch.cat((centres, sides, uniform(-1.5, 1.5, count, 1)), dim=1)
    else:
        boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=RANDOM)
    return ImageTargets(boxes, labels, None, None)


def predictions(priors: Tensor, *, rotated: bool) -> tuple[Tensor, Tensor]:
    """Logits [classes, p], and boxes around the priors [4 or 5, p]."""
    count = len(priors)
    logits = torch.randn(NUM_CLASSES, count, generator=RANDOM) - 3
    points, distances = priors[:, :2].T, uniform(1.6, 4.4, 4, count).exp()
    if rotated:
        return logits, torch.cat((points, 2 * distances[:2], uniform(-1.5, 1.5, 1, count)))
    return logits, torch.cat((points - distances[:2], points + distances[2:]))


def naive_assign(
    priors: Tensor, logits: Tensor, boxes: Tensor, targets: ImageTargets
) -> Assignment:
    """As the formula reads: priors x instances x classes."""
    valid = inside_boxes(priors[:, :2].T, targets.boxes).any(dim=0).nonzero().squeeze(1)
    overlaps = box_overlaps(targets.boxes.T[:, :, None], boxes[:, None, valid])
    soft = F.one_hot(targets.labels, NUM_CLASSES).float()[:, :, None] * overlaps[:, None]
    scores = logits[:, valid].expand_as(soft)
    cost = F.binary_cross_entropy_with_logits(scores, soft, reduction="none")
    cost = (cost * (soft - scores.sigmoid()).abs() ** 2).sum(dim=1) + overlap_cost(overlaps)
    cost += centre_cost(priors[valid].T, (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2)
    wanted = overlaps.topk(TOPK, dim=1).values.sum(dim=1).int().clamp(min=1)
    taken = torch.zeros_like(cost, dtype=torch.bool)
    for instance, number in enumerate(wanted.tolist()):
        taken[instance, cost[instance].topk(number, largest=False).indices] = True
    contested = taken.sum(dim=0) > 1
    taken[:, contested] = False
    taken[cost.argmin(dim=0)[contested], contested.nonzero().squeeze(1)] = True
    columns, chosen = taken.T.nonzero(as_tuple=True)
    return Assignment(valid[columns], chosen, overlaps[chosen, columns])


def compare_assignment(count: int) -> None:
    """Upright boxes, 80 classes."""
    priors = input_priors(INPUT_SIZE)
    targets = instances(count, rotated=False)
    inputs = (priors, *predictions(priors, rotated=False), targets)
    num_valid = int(inside_boxes(priors[:, :2].T, targets.boxes).any(dim=0).sum())
    found = assign(*inputs, topk=TOPK)
    name = f"{count} instances"
    row(f"assign, {name}", lambda: assign(*inputs, topk=TOPK), f"{len(found.priors)} positives")
    # Four tensors of that size live at once.
    naive_mib = 4 * 4 * num_valid * count * NUM_CLASSES / 2**20
    if naive_mib > MAX_NAIVE_MIB:
        print(f"  priors x instances x classes, {name}: left out, {naive_mib / 1024:.0f} GiB")
        return
    expected = naive_assign(*inputs)
    agrees = all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    row(
        f"  priors x instances x classes, {name}",
        lambda: naive_assign(*inputs),
        "the same" if agrees else "DIFFERS",
    )


def compare_rotated_assignment(count: int) -> None:
    """The same for rotated boxes, whose overlaps are what costs."""
    priors = input_priors(INPUT_SIZE)
    targets = instances(count, rotated=True)
    logits, boxes = predictions(priors, rotated=True)
    name = f"{count} instances"
    row(f"assign rotated, {name}", lambda: assign(priors, logits, boxes, targets, topk=TOPK))

    def within_reach() -> list[Tensor]:
        return [rotated_overlaps(block, boxes.T) for block in targets.boxes.split(10)]

    def all_pairs() -> list[Tensor]:
        overlaps = []
        for block in targets.boxes.split(10):
            first = block.repeat_interleave(len(priors), dim=0)
            second = boxes.T.repeat(len(block), 1)
            overlaps.append(paired_rotated_iou(first, second).float().view(len(block), -1))
        return overlaps

    name = f"{count} x {len(priors)} boxes"
    row(f"  its overlaps, within reach, {name}", within_reach)
    if count > 100:
        print(f"  its overlaps, all pairs, {name}: left out, {count // 100} times those of 100")
        return
    apart = (torch.cat(within_reach()) - torch.cat(all_pairs())).abs().max().item()
    row(f"  its overlaps, all pairs, {name}", all_pairs, f"differ by at most {apart:.0e}")


def time_rotated_loss(count: int) -> None:
    """Forward and backward for five positives an instance."""
    boxes = instances(5 * count, rotated=True).boxes
    targets = boxes + 2 * torch.randn(boxes.shape, generator=RANDOM)
    boxes.requires_grad_()
    row(
        f"rotated_iou_loss, {5 * count} pairs, forward and backward",
        lambda: rotated_iou_loss(boxes, targets).sum().backward(),
    )


def compare_mask_loss(count: int) -> None:
    """Forward and backward for five positives an instance."""
    height, width = INPUT_SIZE[0] // 8, INPUT_SIZE[1] // 8
    num_positives = 5 * count
    priors = input_priors(INPUT_SIZE)
    positives = MaskPositives(
        kernels=(0.3 * torch.randn(num_positives, 169, generator=RANDOM)).requires_grad_(),
        priors=priors[torch.randint(0, len(priors), (num_positives,), generator=RANDOM)],
        instances=torch.randint(0, count, (num_positives,), generator=RANDOM),
        counts=(num_positives,),
    )
    features = torch.randn(1, 8, height, width, generator=RANDOM).requires_grad_()
    masks = torch.randint(
        0, 256, (count, 2 * height, width // 4), generator=RANDOM, dtype=torch.uint8
    )

    def in_chunks() -> Tensor:
        return mask_loss(positives, features, masks, chunk_mib=CHUNK_MIB)

    def at_once() -> Tensor:
        logits = mask_logits(positives.kernels, positives.priors, features[0])
        logits = F.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear")[:, 0]
        wanted = unpack_masks(masks[positives.instances], 2 * width)
        return dice_loss(logits, wanted.float()).sum()

    name = f"{num_positives} positives, forward and backward"
    row(f"mask_loss, {name}", lambda: in_chunks().backward())
    naive_mib = 176 * num_positives * height * width / 2**20
    if naive_mib > MAX_NAIVE_MIB:
        print(f"  all at once, {name}: left out, {naive_mib / 1024:.0f} GiB")
        return
    apart = abs(in_chunks().item() / at_once().item() - 1)
    row(
        f"  all at once, {name}",
        lambda: at_once().backward(),
        f"differs by {apart:.0e}, relatively",
    )


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, input {INPUT_SIZE}")
    for compare in (
        compare_assignment,
        compare_rotated_assignment,
        time_rotated_loss,
        compare_mask_loss,
    ):
        for count in COUNTS:
            compare(count)


if __name__ == "__main__":
    main()
