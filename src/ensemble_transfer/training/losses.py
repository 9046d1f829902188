"""Losses of networks that are not trained, such as interpolated or shifted ones."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.models.memory_format import to_device
from ensemble_transfer.models.tf32 import tf32
from ensemble_transfer.weights import Weights

_BATCH = 256


@torch.no_grad()
@tf32(allowed=False)
def batch_loss(
    architecture: Architecture, weights: Weights, images: Tensor, labels: Tensor, device: torch.device
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy, with BatchNorm normalising by the statistics of the images themselves.

    Shifted or interpolated weights have no running statistics of their own; those of the batch need no further pass. A
    single image has no variance over images, so it is normalised by the running statistics.

    Args:
        architecture: Of the classifier.
        weights: Its weights.
        images: (examples, channels, height, width) uint8.
        labels: (examples,) int64.
        device: Where to compute.
    """
    classifier = to_device(architecture.classifier(weights), device)
    for layer in classifier.modules() if len(images) > 1 else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train()
    parts = -(-len(images) // _BATCH)
    logits = torch.cat([classifier(batch.to(device)).float().cpu() for batch in images.tensor_split(parts)])
    return float(cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())
