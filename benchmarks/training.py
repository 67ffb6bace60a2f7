"""Images per second of whole training steps: forwards, losses, backwards, AdamW, average.

    python -m benchmarks.training

On a CPU: RTMDet-tiny and RTMDet-Ins-tiny at 640 pixels, bf16 beside float32, and what
a step spends on what. On a GPU: tiny, s and m in bf16, eager beside compiled. Batches are made up
and lie in memory already (`benchmarks.mixing` has what it costs to make real ones).
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from model.config import VARIANTS
from training.config import TrainConfig
from training.criterion import Criterion
from training.networks import build_network
from training.optimisation.ema import WeightAverage
from training.optimisation.optim import build_optimizer
from training.recipes import recipe
from training.step import PictureNetwork
from training.targets import Targets

NUM_CLASSES = 80
#: Instances in each image; mixing puts about so many into an image of COCO.
NUM_INSTANCES = 30
SIDE = 640


@dataclass
class Clock:
    """Adds up where the time goes; waits for the GPU first."""

    device: torch.device
    spent: dict[str, float]
    since: float = 0.0

    def lap(self, name: str) -> None:
        """What was done since the last lap was `name`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self.since
        self.since = now


class Training:
    """One network in training, for a batch that stays the same."""

    def __init__(self, config: TrainConfig, device: torch.device, batch_size: int) -> None:
        torch.manual_seed(0)
        network = build_network(config.model, NUM_CLASSES).to(device)
        if config.runtime.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.network = network
        self.average = WeightAverage(network, config.ema, total_steps=1000)
        on_gpu = device.type == "cuda"
        self.optimizer = build_optimizer(network, config.optimizer, lr=1e-4, fused=on_gpu)
        if config.runtime.compile:
            network.compile()
        bf16 = config.runtime.precision == "bf16"
        self.model = PictureNetwork(network, device, bf16=bf16).to(device)
        variant = VARIANTS[config.model.name].with_classes(NUM_CLASSES)
        self.criterion = Criterion(variant, config.loss)
        random = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (batch_size, SIDE, SIDE, 3), generator=random).to(
            device, torch.uint8
        )
        self.targets = targets(variant.task == "instance", batch_size, random).to(device)
        self.device = device
        self.batch_size = batch_size

    def step(self, clock: Clock) -> None:
        """One step of the optimizer."""
        outputs = self.model(self.images)
        clock.lap("forwards")
        losses = self.criterion(outputs, self.targets)
        clock.lap("losses")
        losses.total.backward()
        clock.lap("backwards")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network)
        clock.lap("weights")


def targets(with_masks: bool, batch_size: int, random: torch.Generator) -> Targets:
    """Instances of 16 to 200 pixels all over the images."""
    total = batch_size * NUM_INSTANCES
    centres = torch.rand(total, 2, generator=random) * SIDE
    sides = torch.empty(total, 2).uniform_(2.8, 5.3, generator=random).exp()
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1).clamp(0, SIDE)
    labels = torch.randint(0, NUM_CLASSES, (total,), generator=random)
    counts = (NUM_INSTANCES,) * batch_size
    if not with_masks:
        return Targets(boxes, labels, counts)
    shape = (total, SIDE // 4, SIDE // 32)
    masks = torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    return Targets(boxes, labels, counts, centres, masks)


def compare(kinds: dict[str, Training], rounds: int) -> None:
    """Steps of all kinds in turns; prints images per second and the share of each part."""
    clocks = {name: Clock(each.device, {}) for name, each in kinds.items()}
    durations: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(-2, rounds):
        for name, training in kinds.items():
            clock = Clock(training.device, {}) if turn < 0 else clocks[name]
            clock.since = start = time.perf_counter()
            training.step(clock)
            if turn >= 0:
                durations[name].append(time.perf_counter() - start)
    for name, training in kinds.items():
        median = statistics.median(durations[name])
        spent = clocks[name].spent
        shares = ", ".join(
            f"{part} {100 * seconds / sum(spent.values()):.0f} %" for part, seconds in spent.items()
        )
        speed = training.batch_size / median
        print(f"{name:<44} {speed:8.2f} images/s {median * 1e3:9.1f} ms a step   {shares}")


def configured(name: str, **runtime: object) -> TrainConfig:
    """The published recipe with other ways to run it."""
    config = recipe(name)
    return replace(
        config,
        model=replace(config.model, input_size=(SIDE, SIDE)),
        runtime=replace(config.runtime, **runtime),  # type: ignore[arg-type]
    )


def on_cpu(names: Sequence[str]) -> None:
    """Batches of two, as a laptop would."""
    device = torch.device("cpu")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    for name in names:
        kinds = {
            f"{name} {precision}": Training(configured(name, precision=precision), device, 2)
            for precision in ("float32", "bf16")
        }
        compare(kinds, rounds=6)


def on_gpu(names: Sequence[str]) -> None:
    """Batches of 32, as published."""
    device = torch.device("cuda", 0)
    print(torch.cuda.get_device_name(device))
    for name in names:
        kinds: dict[str, Training] = {}
        for compiled in (False, True):
            config = configured(name, precision="bf16", compile=compiled)
            kinds[f"{name} bf16 {'compiled' if compiled else 'eager'}"] = Training(
                config, device, 32
            )
        compare(kinds, rounds=20)
        print(f"  peak of both {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """What this machine has."""
    run: Callable[[Sequence[str]], None] = on_cpu
    names = ["rtmdet-tiny", "rtmdet-ins-tiny"]
    if torch.cuda.is_available():
        run, names = on_gpu, ["rtmdet-tiny", "rtmdet-s", "rtmdet-m"]
    run(names)


if __name__ == "__main__":
    main()
