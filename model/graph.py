"""What is exported: the network between its pre- and post-processing, as one module.

uint8 pictures go in, a fixed number of decoded candidates per picture comes out, best first.
Suppression stays outside (`model.postprocess`): it would make the shapes depend on the data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.decoding import Decoder, DensePredictions
from model.manifest import PIXEL_MEAN, PIXEL_STD
from model.rtmdet import RTMDet


class Normalise(nn.Module):
    """Grey levels to the network's input: (pixel - mean) / std per channel, in BGR order."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1)
        std = torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n, h, w, 3] -> float32 [n, 3, h, w]."""
        # The cast stands first because TensorRT lets nothing else touch uint8.
        return images.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift


class CandidateSelection(nn.Module):
    """The best (prior, class) pairs of each picture, exactly, without sorting all of them.

    A pair among the best `num_candidates` belongs to a prior among the `num_candidates` priors
    with the best top score; so priors are selected first, then pairs among theirs.
    """

    classes: Tensor

    def __init__(self, num_classes: int, num_priors: int, num_candidates: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_priors = min(num_candidates, num_priors)
        self.num_pairs = min(num_candidates, self.num_priors * num_classes)
        # A table instead of an integer division, which runtimes may do in low precision.
        classes = torch.arange(num_classes, dtype=torch.int32).repeat_interleave(self.num_priors)
        self.register_buffer("classes", classes[:, None], persistent=False)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, classes, p] -> logits, classes (int32), priors (int64) of the best: [n, k] each."""
        best_priors = logits.amax(dim=1).topk(self.num_priors, dim=1).indices
        pairs = logits.gather(2, _along(best_priors, self.num_classes)).flatten(1)
        values, flat = pairs.topk(self.num_pairs, dim=1)
        labels = F.embedding(flat, self.classes).squeeze(-1)
        priors = best_priors.gather(1, flat - labels.to(torch.int64) * self.num_priors)
        return values, labels, priors


class ServingGraph(nn.Module):
    """Normalisation, network, decoding, selection."""

    def __init__(self, network: RTMDet, input_size: tuple[int, int], num_candidates: int) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.network = network
        self.decode = Decoder(input_size)
        self.select = CandidateSelection(
            network.config.num_classes, self.decode.priors.shape[0], num_candidates
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 BGR [n, h, w, 3] -> candidates by name, in pixels of the input.

        `boxes` [n, k, 4] xyxy (rotated: [n, k, 5]), `scores` [n, k], `labels` [n, k] int32; for
        instance models also `kernels` [n, k, 169], `priors` [n, k, 3] (x, y, stride) and
        `mask_features` [n, 8, h / 8, w / 8]. `dense_logits` [n, classes, p], `dense_boxes`
        [n, 4 or 5, p] and `dense_kernels` [n, 169, p] are what the candidates are selected from.
        """
        dense = self.decode(self.network(self.normalise(images)))
        logits, labels, chosen = self.select(dense.logits)
        outputs = {
            "boxes": _columns(dense.boxes, chosen),
            "scores": logits.sigmoid(),
            "labels": labels,
        }
        return outputs | self._mask_outputs(dense, chosen) | _dense_outputs(dense)

    def _mask_outputs(self, dense: DensePredictions, chosen: Tensor) -> dict[str, Tensor]:
        if dense.kernels is None:
            return {}
        assert dense.mask_features is not None
        return {
            "kernels": _columns(dense.kernels, chosen),
            "priors": F.embedding(chosen, self.decode.priors),
            "mask_features": dense.mask_features,
        }


def _dense_outputs(dense: DensePredictions) -> dict[str, Tensor]:
    outputs = {"dense_logits": dense.logits, "dense_boxes": dense.boxes}
    return outputs if dense.kernels is None else outputs | {"dense_kernels": dense.kernels}


def _along(indices: Tensor, num_rows: int) -> Tensor:
    """[n, k] -> [n, rows, k], the same indices for every row."""
    return indices[:, None].expand(-1, num_rows, -1)


def _columns(dense: Tensor, chosen: Tensor) -> Tensor:
    """Of [n, c, p] the columns `chosen` [n, k], as rows: [n, k, c]."""
    return dense.gather(2, _along(chosen, dense.shape[1])).transpose(1, 2)
