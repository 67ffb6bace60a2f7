"""Samples become a batch of tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from training.data.sampling.masks import packed_masks
from training.data.sampling.samples import Sample, joined
from training.targets import DetectionBatch, Targets


def batch_of(samples: Sequence[Sample]) -> DetectionBatch:
    """The batch of at least one sample; all have the same size."""
    images = np.stack([sample.image for sample in samples])
    boxes, labels, bitmaps = joined([sample.instances for sample in samples])
    centres = masks = None
    if bitmaps is not None:
        centres = np.array([each.centre for each in bitmaps], np.float32).reshape(-1, 2)
        masks = packed_masks(bitmaps, (images.shape[1], images.shape[2]))
    return DetectionBatch(
        images=torch.from_numpy(images),
        targets=Targets(
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            counts=tuple(len(sample.instances.labels) for sample in samples),
            centres=None if centres is None else torch.from_numpy(centres),
            masks=None if masks is None else torch.from_numpy(masks),
        ),
        problems=tuple(line for sample in samples for line in sample.problems),
    )
