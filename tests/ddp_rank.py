"""One rank of two that compute the gradients of one batch; `test_ddp` compares them.

python -m tests.ddp_rank FOLDER        writes FOLDER/TASK-CASE.safetensors
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.config import VARIANTS, BackboneConfig, RTMDetConfig, Task
from model.rtmdet import RTMDet, build_rtmdet
from training.config import LossConfig
from training.criterion import Criterion
from training.distributed import Ranks, join_ranks
from training.optimisation.batch_norm import synchronise_batch_norms
from training.step import PictureNetwork
from training.targets import Targets

SIDE = 128
NUM_IMAGES = 4
TASKS: tuple[Task, ...] = ("detect", "instance", "rotated")
_VARIANT = {"detect": "rtmdet-tiny", "instance": "rtmdet-ins-tiny", "rotated": "rtmdet-r-tiny"}

#: Instances of each image, by name of the case.
COUNTS = {"even": (3, 1, 2, 4), "second rank without a box": (3, 2, 0, 0), "no box": (0, 0, 0, 0)}


def config(task: Task) -> RTMDetConfig:

    return replace(
        VARIANTS[_VARIANT[task]],
        backbone=BackboneConfig(deepen=0.167, widen=0.125),
        num_classes=3,
        input_size=(SIDE, SIDE),
    )


def network(task: Task) -> RTMDet:
    """Freshly initialised, the same on all ranks."""
    torch.manual_seed(0)
    return build_rtmdet(config(task)).train()


def batch(task: Task, case: str) -> tuple[Tensor, Targets]:
    """Images and what is in them, the same on all ranks."""
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (NUM_IMAGES, SIDE, SIDE, 3), generator=random).to(torch.uint8)
    total = sum(COUNTS[case])
    centres = torch.rand(total, 2, generator=random) * 80 + 24
    sides = torch.rand(total, 2, generator=random) * 40 + 20
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
    if task == "rotated":
        angles = torch.rand(total, 1, generator=random) * 3 - 1.5
        boxes = torch.cat((centres, sides, angles), dim=1)
    labels = torch.randint(0, 3, (total,), generator=random)
    if task != "instance":
        return images, Targets(boxes, labels, COUNTS[case])
    shape = (total, SIDE // 4, SIDE // 4 // 8)
    masks = torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    return images, Targets(boxes, labels, COUNTS[case], centres, masks)


def share(images: Tensor, targets: Targets, rank: int, num_ranks: int) -> tuple[Tensor, Targets]:
    """This rank's images."""
    size = NUM_IMAGES // num_ranks
    first, last = rank * size, (rank + 1) * size
    rows = slice(sum(targets.counts[:first]), sum(targets.counts[:last]))
    return images[first:last], Targets(
        targets.boxes[rows],
        targets.labels[rows],
        targets.counts[first:last],
        None if targets.centres is None else targets.centres[rows],
        None if targets.masks is None else targets.masks[rows],
    )


def gradients(task: Task, case: str, ranks: Ranks) -> dict[str, Tensor]:
    """The gradient of every parameter, and the running statistics, after one backward pass."""
    plain = network(task)
    model: torch.nn.Module = PictureNetwork(plain, ranks.device, bf16=False)
    if ranks.num_ranks > 1:
        synchronise_batch_norms(plain)
        model = DistributedDataParallel(model, broadcast_buffers=False)
    criterion = Criterion(
        plain.config, LossConfig(), sum_over_ranks=ranks.sum, num_ranks=ranks.num_ranks
    )
    images, targets = share(*batch(task, case), ranks.rank, ranks.num_ranks)
    criterion(model(images), targets).total.backward()
    found = {}
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    statistics = {name: value for name, value in plain.named_buffers() if "running" in name}
    return found | statistics


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    for task in TASKS:
        for case in COUNTS:
            found = gradients(task, case, ranks)
            if ranks.is_first:
                save_file(found, folder / f"{task}-{case}.safetensors")
    ranks.leave()


if __name__ == "__main__":
    main()
