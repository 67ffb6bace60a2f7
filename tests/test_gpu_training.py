"""Training on a GPU: the same parts as on a CPU, at bf16, fused, compiled, channels-last.

RTMDET_GPU_TESTS_ON=cpu pytest tests/test_gpu_training.py      tries the tests themselves
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.config import Task
from model.heads.outputs import HeadOutputs
from tests import ddp_rank
from tests.allocations import peak_bytes
from tests.toy_training import StopAfter, ToyWorkload, resume, toy_config
from training.checkpoint import CheckpointStore
from training.config import LossConfig, TrainConfig
from training.criterion import Criterion, LossTerms
from training.distributed import Ranks
from training.learner import Learner
from training.mask_loss import MaskPositives, mask_loss
from training.optimisation.batch_norm import SynchronisedBatchNorm2d, synchronise_batch_norms
from training.optimisation.ema import WeightAverage
from training.run.display import SilentDisplay
from training.run.journal import Journal
from training.saving import Saver
from training.session import _learner
from training.targets import DetectionBatch, Targets
from training.trainer import Trainer, pace_of
from training.workloads.base import BatchLosses

ON_GPU = torch.cuda.is_available() and os.environ.get("RTMDET_GPU_TESTS_ON") != "cpu"
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
RANKS = Ranks(0, 1, DEVICE)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ON_GPU and os.environ.get("RTMDET_GPU_TESTS_ON") != "cpu", reason="there is no GPU"
    ),
]


class SceneWorkload(ToyWorkload):
    """The real network and losses, on the same few pictures again and again."""

    def __init__(self, task: Task) -> None:
        super().__init__(batches_per_epoch=2)
        self.network = ddp_rank.network(task)  # type: ignore[assignment]
        self._criterion = Criterion(ddp_rank.config(task), LossConfig())
        images, targets = ddp_rank.batch(task, "even")
        self._batch = DetectionBatch(images, targets)

    def batches(self, epoch: int, first_batch: int) -> Iterator[DetectionBatch]:  # type: ignore[override]
        for _ in range(first_batch, self.batches_per_epoch):
            yield self._batch.pin_memory() if ON_GPU else self._batch

    def losses(self, model: nn.Module, batch: DetectionBatch) -> BatchLosses:  # type: ignore[override]
        terms = self._criterion(model(batch.images), batch.targets)
        return BatchLosses(terms.total, terms.scalars())


def config(*, compiled: bool = False, bf16: bool = True) -> TrainConfig:
    """Six steps, gradients clipped, a rate that moves the weights from the first step on."""
    base = toy_config(epochs=3, last_stage_epochs=0, accumulation=1)
    return replace(
        base,
        schedule=replace(base.schedule, warmup_steps=0),
        optimizer=replace(base.optimizer, lr=1e-3, lr_batch_size=4, max_grad_norm=10.0),
        runtime=replace(base.runtime, precision="bf16" if bf16 else "float32", compile=compiled),
    )


def learner_for(workload: SceneWorkload, config: TrainConfig) -> Learner:
    """As the session makes it."""
    return _learner(config, workload, pace_of(config, workload), RANKS)  # type: ignore[arg-type]


def trainer_in(folder: Path) -> Trainer:
    workload, chosen = SceneWorkload("instance"), config()
    pace = pace_of(chosen, workload)  # type: ignore[arg-type]
    store = CheckpointStore(folder / "checkpoints", 2)
    return Trainer(
        chosen,
        workload,  # type: ignore[arg-type]
        learner_for(workload, chosen),
        RANKS,
        Saver(store, RANKS, pace, workload, chosen.runtime, folder=folder),  # type: ignore[arg-type]
        journal=Journal(chosen, pace, SilentDisplay()),
        evaluations=None,
    )


def flat(network: nn.Module) -> Tensor:
    """All weights in one vector, on the CPU."""
    return torch.cat([each.detach().double().cpu().flatten() for each in network.parameters()])


# ------------------------------------------------------------------------------------ the trainer


def test_gpu__a_resumed_run_goes_where_the_uninterrupted_one_goes(tmp_path: Path) -> None:
    start = flat(ddp_rank.network("instance"))
    whole = trainer_in(tmp_path / "whole")
    assert whole.run()
    stopped = trainer_in(tmp_path / "parts")
    assert not stopped.run(StopAfter(2))
    resumed = trainer_in(tmp_path / "parts")
    resume(resumed)
    assert resumed.standing.position == stopped.standing.position
    assert resumed.run()
    ours, theirs = resumed._learner, whole._learner
    assert ours.average.updates == theirs.average.updates == 6
    # Sums of a GPU come in any order; AdamW enlarges that where gradients are nearly 0. Without
    # the optimizer's state the difference is half of the way.
    moved = (flat(theirs.network) - start).norm()
    assert (flat(ours.network) - flat(theirs.network)).norm() < 0.1 * moved
    average, expected = flat(ours.average.network), flat(theirs.average.network)
    assert (average - expected).norm() < 0.1 * moved


def test_gpu__a_restored_optimizer_is_where_the_parameters_are(tmp_path: Path) -> None:
    assert not trainer_in(tmp_path).run(StopAfter(0))
    resumed = trainer_in(tmp_path)
    resume(resumed)
    optimizer = resumed._learner.optimizer
    assert all(group["fused"] == ON_GPU for group in optimizer.param_groups)
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].device == parameter.device
        assert state["exp_avg"].stride() == parameter.stride()
        assert float(state["step"]) == 1


# What the compiler's own imports are told is none of our business.
@pytest.mark.filterwarnings("ignore")
def test_gpu__compiled_computes_what_is_computed_otherwise() -> None:
    results = []
    for compiled in (False, True):
        workload = SceneWorkload("detect")
        learner = learner_for(workload, config(compiled=compiled, bf16=False))
        (batch, _) = workload.batches(0, 0)
        results.append(learner.stepper.gradients([batch.to(DEVICE)]))
    eager, fast = results
    assert fast.losses == pytest.approx(eager.losses, rel=1e-2)
    assert fast.grad_norm == pytest.approx(eager.grad_norm, rel=5e-2)


def test_gpu__synchronised_norms_are_those_of_the_network() -> None:
    network = ddp_rank.network("instance").to(DEVICE)
    average = WeightAverage(network, config().ema, total_steps=10)
    before = dict(network.state_dict(keep_vars=True))
    converted = synchronise_batch_norms(network)
    after = converted.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    kind = nn.SyncBatchNorm if ON_GPU else SynchronisedBatchNorm2d
    norms = [
        each for each in converted.modules() if isinstance(each, nn.modules.batchnorm._NormBase)
    ]
    assert norms
    assert all(type(each) is kind for each in norms)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter += 1
    average.update(converted)
    assert torch.equal(flat(average.network), flat(converted))


# ------------------------------------------------------------------------------------- the losses


def losses_on(device: torch.device, task: Task) -> tuple[LossTerms, list[Tensor]]:
    """The losses of the same outputs, and their gradients, computed there."""
    images, targets = ddp_rank.batch(task, "even")
    with torch.no_grad():
        outputs = ddp_rank.network(task).eval()(images.permute(0, 3, 1, 2).float() / 255)
    leaves: list[Tensor] = []

    def moved(tensor: Tensor) -> Tensor:
        leaves.append(tensor.to(device).requires_grad_())
        return leaves[-1]

    there = HeadOutputs(
        *([moved(level) for level in levels] for levels in outputs[:4]),
        None if outputs.mask_features is None else moved(outputs.mask_features),
    )
    terms = Criterion(ddp_rank.config(task), LossConfig())(there, targets.to(device))
    return terms, list(torch.autograd.grad(terms.total, leaves))


@pytest.mark.parametrize("task", ddp_rank.TASKS)
def test_gpu__losses_are_those_of_the_cpu(task: Task) -> None:
    ours, our_gradients = losses_on(DEVICE, task)
    theirs, their_gradients = losses_on(torch.device("cpu"), task)
    assert ours.num_positives == theirs.num_positives > 0
    for name, value in theirs.scalars().items():
        assert float(ours.scalars()[name]) == pytest.approx(float(value), rel=1e-4)
    for mine, yours in zip(our_gradients, their_gradients, strict=True):
        assert (mine.cpu() - yours).norm() <= 1e-3 * yours.norm() + 1e-7


def peak_on_device(function: Callable[[], object]) -> int:
    """How much more memory a call holds at its worst moment than before it."""
    function()  # what libraries keep for themselves is there afterwards
    if not ON_GPU:
        return peak_bytes(function)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def mask_loss_peak(num_positives: int, chunk_mib: int) -> int:
    """Bytes that the loss of one image of 512 x 512 pixels takes, gradients included."""
    random = torch.Generator().manual_seed(0)
    kernels = torch.randn(num_positives, 169, generator=random).to(DEVICE).requires_grad_()
    features = torch.randn(1, 8, 64, 64, generator=random).to(DEVICE).requires_grad_()
    packed = torch.randint(0, 256, (1, 128, 16), generator=random).to(torch.uint8)
    positives = MaskPositives(
        kernels=kernels,
        priors=torch.tensor([[32.0, 32.0, 8.0]], device=DEVICE).expand(num_positives, 3),
        instances=torch.zeros(num_positives, dtype=torch.int64, device=DEVICE),
        counts=(num_positives,),
    )
    masks = packed.to(DEVICE)

    def step() -> None:
        loss = mask_loss(positives, features, masks, chunk_mib=chunk_mib)
        torch.autograd.grad(loss, (kernels, features))

    return peak_on_device(step)


def test_gpu__mask_loss_keeps_to_its_budget() -> None:
    budget = 8 * 2**20
    few, many = (mask_loss_peak(number, chunk_mib=8) for number in (50, 400))
    # The gradients of the kernels, before and after they are scaled, come on top.
    assert few < 1.5 * budget
    assert many < few + 400 * 169 * 4 * 3 + budget // 8


def test_gpu__targets_arrive_whole() -> None:
    images, targets = ddp_rank.batch("instance", "even")
    batch = DetectionBatch(images, targets)
    pinned = batch.pin_memory() if ON_GPU else batch
    there = pinned.to(DEVICE, non_blocking=True)
    assert there.images.device == DEVICE
    assert torch.equal(there.images.cpu(), images)
    for ours, theirs in zip(tensors_of(there.targets), tensors_of(targets), strict=True):
        assert ours.device == DEVICE
        assert torch.equal(ours.cpu(), theirs)


def tensors_of(targets: Targets) -> list[Tensor]:
    assert targets.centres is not None
    assert targets.masks is not None
    return [targets.boxes, targets.labels, targets.centres, targets.masks]
