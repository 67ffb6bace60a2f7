"""From a head's outputs and the targets to the losses of a training step.

Matching on detached predictions, then quality focal loss and box loss per level, and the mask loss
(section 3.3 of arXiv 2212.07784). The trainer calls it, whatever precision the network runs in:
everything here happens outside autocast.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import RTMDetConfig
from model.heads.outputs import HeadOutputs
from training.config import LossConfig
from training.losses import giou_loss, quality_focal_loss, rotated_iou_loss
from training.mask_loss import MaskPositives, mask_loss
from training.matching import LevelPositives, Positives, by_level, decode, match, priors_of
from training.rotated_overlaps import regularised
from training.targets import Targets


def identity(sums: Tensor) -> Tensor:
    """The sum over all ranks, where there is one."""
    return sums


class LossTerms(NamedTuple):
    """The losses, weighted: `cls` and `box` [levels], finest first; `mask` a scalar or None."""

    cls: Tensor
    box: Tensor
    mask: Tensor | None
    num_positives: int

    @property
    def total(self) -> Tensor:
        """What is minimised: the plain sum."""
        boxes = self.cls.sum() + self.box.sum()
        return boxes if self.mask is None else boxes + self.mask

    def scalars(self) -> dict[str, Tensor]:
        """The terms by name, for the log: detached, still on the device."""
        named = {"loss_cls": self.cls.detach().sum(), "loss_box": self.box.detach().sum()}
        if self.mask is not None:
            named["loss_mask"] = self.mask.detach()
        return named


class Criterion:
    """The losses of one network.

    With several ranks `sum_over_ranks` gives every rank the sum of a tensor over all of them. The
    mean of the ranks' gradients is then the gradient of one process with the whole batch.
    """

    def __init__(
        self,
        config: RTMDetConfig,
        loss: LossConfig,
        *,
        sum_over_ranks: Callable[[Tensor], Tensor] = identity,
        num_ranks: int = 1,
    ) -> None:
        self.task = config.task
        self.loss = loss
        self.sum_over_ranks = sum_over_ranks
        self.num_ranks = num_ranks

    def __call__(self, outputs: HeadOutputs, targets: Targets) -> LossTerms:
        """The losses of a batch.

        Every prediction takes part, also where nothing is to be found: gathered at no positives
        it gives a loss of 0 with gradients of 0, so that no rank waits for another's gradient.
        """
        with torch.autocast(outputs.logits[0].device.type, enabled=False):
            positives = match(outputs, targets, topk=self.loss.topk)
            levels = by_level(positives, outputs)
            drawn = self._drawn(positives)
            overlap_sum, num_drawn = self._averages(positives, drawn)
            cls = torch.stack(_class_losses(outputs, targets, positives, levels))
            box = torch.stack(self._box_losses(outputs, targets, positives, levels))
            mask = None
            if drawn is not None:
                dice = self._mask_loss(outputs, targets, positives, levels, drawn)
                mask = dice * (self.loss.mask_weight / num_drawn)
        return LossTerms(
            cls=cls / overlap_sum,
            box=box * (self.loss.box_weight / overlap_sum),
            mask=mask,
            num_positives=len(positives.priors),
        )

    def _averages(self, positives: Positives, drawn: "_Drawn | None") -> tuple[Tensor, Tensor]:
        """What this rank divides by: the overlaps' sum (not the number of positives), and the
        number of masks.

        The published code takes the mean over ranks and at least 1; here the sum is at least 1,
        and then the mean. They differ below one positive per rank alone, where only this one
        makes the ranks together equal to a single process.
        """
        num_drawn = 0 if drawn is None else len(drawn.rows)
        sums = torch.stack(
            (positives.overlaps.sum(), positives.overlaps.new_tensor(float(num_drawn)))
        )
        overlap_sum, num_masks = self.sum_over_ranks(sums).clamp(min=1) / self.num_ranks
        return overlap_sum, num_masks

    def _box_losses(
        self,
        outputs: HeadOutputs,
        targets: Targets,
        positives: Positives,
        levels: list[LevelPositives],
    ) -> list[Tensor]:
        """Per level the sum, every positive weighted by its overlap."""
        priors = priors_of(outputs)
        wanted = box_targets(targets, positives)
        losses = []
        for level, place in enumerate(levels):
            boxes = decode(
                priors[positives.priors[place.rows]],
                place.gather(outputs.distances[level]).T,
                place.gather(outputs.angles[level]).T if outputs.angles else None,
            ).T
            loss = rotated_iou_loss if outputs.angles else giou_loss
            weighted = loss(boxes, wanted[place.rows]) * positives.overlaps[place.rows]
            losses.append(weighted.sum())
        return losses

    def _drawn(self, positives: Positives) -> "_Drawn | None":
        """Which positives' masks are compared; None where the network draws none."""
        if self.task != "instance":
            return None
        return _Drawn.best(positives, self.loss.max_masks_per_image)

    def _mask_loss(
        self,
        outputs: HeadOutputs,
        targets: Targets,
        positives: Positives,
        levels: list[LevelPositives],
        drawn: "_Drawn",
    ) -> Tensor:
        """The sum over the masks that are drawn."""
        assert outputs.mask_features is not None
        assert targets.masks is not None
        kernels = torch.cat(
            [place.gather(maps) for place, maps in zip(levels, outputs.kernels, strict=True)]
        )
        # Gathered level by level, wanted image by image.
        order = torch.cat([place.rows for place in levels]).argsort()
        mask_positives = MaskPositives(
            kernels=kernels[order[drawn.rows]],
            priors=priors_of(outputs)[positives.priors[drawn.rows]],
            instances=positives.instances[drawn.rows],
            counts=drawn.counts,
        )
        return mask_loss(
            mask_positives,
            outputs.mask_features,
            targets.masks,
            chunk_mib=self.loss.mask_chunk_mib,
        )


class _Drawn(NamedTuple):
    """Rows of `Positives`, image by image, and how many of each image."""

    rows: Tensor
    counts: tuple[int, ...]

    @classmethod
    def best(cls, positives: Positives, max_per_image: int | None) -> "_Drawn":
        """Those that overlap most, of equals the first; all of them without a limit."""
        if max_per_image is None:
            rows = torch.arange(len(positives.priors), device=positives.priors.device)
            return cls(rows, positives.counts)
        kept = []
        start = 0
        for overlaps in positives.overlaps.split(positives.counts):
            best = overlaps.sort(descending=True, stable=True).indices[:max_per_image]
            kept.append(best.sort().values + start)
            start += len(overlaps)
        return cls(torch.cat(kept), tuple(len(rows) for rows in kept))


def box_targets(targets: Targets, positives: Positives) -> Tensor:
    """The boxes [k, 4 or 5] that the positives learn; rotated ones regularised, as published."""
    boxes = targets.boxes[positives.instances]
    return regularised(boxes) if boxes.shape[1] == 5 else boxes


def _class_losses(
    outputs: HeadOutputs, targets: Targets, positives: Positives, levels: list[LevelPositives]
) -> list[Tensor]:
    """Per level the sum over all classes and priors."""
    labels = targets.labels[positives.instances]
    return [
        quality_focal_loss(
            logits,
            (place.images, labels[place.rows], place.map_rows, place.map_columns),
            positives.overlaps[place.rows],
        )
        for logits, place in zip(outputs.logits, levels, strict=True)
    ]
