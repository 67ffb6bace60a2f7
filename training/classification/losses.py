"""What a classifier is trained to minimise."""

import torch.nn.functional as F
from torch import Tensor

#: The share of the target that is spread over all classes (arXiv 1512.00567, section 7).
LABEL_SMOOTHING = 0.1


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of float [n, classes] and int64 [n] with smoothed labels, in float32."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)
