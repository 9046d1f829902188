"""Features of frozen encoders, and BatchNorm statistics that are frozen or estimated anew."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ensemble_transfer.models.architecture import Architecture, Classifier
from ensemble_transfer.models.device import Network, images_at_once, tf32, to_device
from ensemble_transfer.seeding import generator
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.chosen import parts
from ensemble_transfer.training.batches import augmented
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.weights import Weights

BATCH = 256
"""Images that are drawn, or that statistics are estimated on, at once."""


def features(classifier: Classifier, images: Tensor, device: torch.device) -> Tensor:
    """Return the encoder's features (examples, features), on the CPU, in evaluation mode.

    A head trained on them equals a head trained behind the frozen encoder, whose features of an image never change.
    """
    found = empty(len(images), classifier.head.in_features)
    encode(classifier, parts(images, BATCH), device, found)
    return found


def views(images: Tensor, recipe: Recipe, seed: int, drawn: Tensor | None = None) -> Iterator[Tensor]:
    """Yield augmented views of images in batches, view after view.

    Args:
        images: (examples, channels, height, width) uint8.
        recipe: Says how many views there are of every image, and how they are augmented.
        seed: Stream of randomness.
        drawn: Which of the (views * examples) to yield, in ascending order; None for all.
    """
    rows = torch.arange(recipe.views * len(images)) if drawn is None else drawn
    bounds = torch.arange(1, recipe.views) * len(images)
    shown = [rows_of_view % len(images) for rows_of_view in rows.tensor_split(torch.searchsorted(rows, bounds))]
    for view, of_view in enumerate(shown):
        for place, examples in enumerate(torch.split(of_view, BATCH)):
            if len(examples):
                yield augmented(images[examples], recipe.augment, generator(seed, "view", view, place))


@torch.no_grad()
def encode(classifier: Classifier, batches: Iterable[Tensor], device: torch.device, out: Tensor) -> None:
    """Write the features of batches of images, one after another, into a tensor on the CPU; see :func:`features`."""
    classifier, start = to_device(classifier, device), 0
    for batch in batches:
        for part in parts(batch, images_at_once(device, batch.shape[-1])):
            out[start : start + len(part)] = classifier.encode(part.to(device))
            start += len(part)


def statistics_images(images: Tensor, most: int | None, seed: int) -> Tensor:
    """Return the images that BatchNorm's statistics are estimated on: so many, drawn at random; None for all."""
    if most is None or most >= len(images):
        return images
    chosen = torch.randperm(len(images), generator=generator(seed, "statistics"))[:most]
    return images[chosen.sort().values]


def frozen_statistics(network: Network) -> Network:
    """Let a network's BatchNorm normalise by its running statistics, and keep them, in training mode too; in place."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(_as_in_evaluation)
    return network


def _as_in_evaluation(layer: nn.Module, _inputs: object) -> None:
    layer.eval()


@torch.no_grad()
@tf32(allowed=False)
def reestimated_statistics(
    architecture: Architecture, encoder: Weights, images: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Return an encoder's weights with BatchNorm's running statistics estimated anew from one pass over images.

    The estimate is the mean over batches of nearly equal size, with all BatchNorm layers in training mode and all
    else in evaluation mode. An encoder without such layers is returned unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        classifier = architecture.build()
    classifier.encoder.load_state_dict(dict(encoder), strict=True)
    to_device(classifier, device)
    for layer in classifier.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            layer.reset_running_stats()
            layer.momentum = None  # torch: the cumulative mean instead of a moving one
            layer.train()
    for places in torch.tensor_split(torch.arange(len(images)), -(-len(images) // BATCH)):
        classifier.encode(images[places].to(device))
    return {name: tensor.cpu().contiguous() for name, tensor in classifier.encoder.state_dict().items()}


def is_statistic(name: str) -> bool:
    """Return whether a tensor is a running statistic: estimated from data, not trained."""
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))
