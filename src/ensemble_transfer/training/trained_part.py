"""The part of a member that a fit trains: all of it, or its head on the features of the frozen encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ensemble_transfer.models.backbone import Architecture, Classifier
from ensemble_transfer.models.flops import encode_flops, head_flops, step_flops
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import Batches, FeatureBatches, drawn
from ensemble_transfer.training.features import encode, views
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.weights import Weights, below, joined


class TrainedPart(Protocol):
    """A part of a member, and how it is trained."""

    @property
    def name(self) -> str:
        """Name of the part, which belongs to a fit's key."""

    @property
    def architecture(self) -> Architecture:
        """Architecture of the member."""

    @property
    def overhead(self) -> float:
        """Seconds that a member's step takes on a CPU besides its operations, roughly."""

    def module(self, initial: Weights) -> nn.Module:
        """Return the module to train; parameters of the head are named ``head.*``."""

    def batches(
        self,
        initial: Sequence[Weights],
        data: Split,
        recipe: Recipe,
        seeds: Sequence[int],
        device: torch.device,
        free: int | None = None,
    ) -> Batches | FeatureBatches:
        """Return the modules' inputs and labels at every step, from their initial weights and streams of randomness.

        What is computed for them goes to a temporary file where it takes more than half of the ``free`` bytes; None for
        those that the system has.
        """

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the member's weights from those of the trained module."""

    def prepared(self, examples: int, recipe: Recipe) -> int:
        """Return how many examples, of a task of so many, go forward before the first step, at the most."""

    def flops(self, seen: int, prepared: int) -> int:
        """Return the operations of seeing so many examples in training steps, after preparing so many."""


@dataclass(frozen=True)
class WholeMember:
    """Encoder and head, trained on images."""

    architecture: Architecture
    name: str = "whole"
    overhead: float = 4e-3

    def module(self, initial: Weights) -> nn.Module:
        """Return the member's classifier."""
        return loaded(self.architecture, initial)

    def batches(
        self,
        initial: Sequence[Weights],
        data: Split,
        recipe: Recipe,
        seeds: Sequence[int],
        device: torch.device,
        free: int | None = None,
    ) -> Batches:
        """Return batches of the images, which all members share."""
        del device, free
        return Batches([data.images] * len(initial), data.labels, recipe.batch_size, [*seeds], recipe.augment)

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the trained weights."""
        del initial
        return trained

    def prepared(self, examples: int, recipe: Recipe) -> int:
        """Return 0: images need no preparation."""
        del examples, recipe
        return 0

    def flops(self, seen: int, prepared: int) -> int:
        """Return the operations of the steps."""
        del prepared
        return seen * step_flops(self.architecture)


class Head(nn.Module):
    """Weight and bias of a linear head in one parameter (classes, features + 1), whose last column is the bias.

    Args:
        weights: Its ``weight`` and ``bias``.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.cat([weights["weight"], weights["bias"][:, None]], 1))


@dataclass(frozen=True)
class HeadOnFeatures:
    """The head, trained on the features of a frozen encoder, each computed once: of the images that its steps draw."""

    architecture: Architecture
    name: str = "head"
    overhead: float = 1e-4

    def module(self, initial: Weights) -> nn.Module:
        """Return the member's head."""
        return nn.ModuleDict({"head": Head(below(initial, "head"))})

    def batches(
        self,
        initial: Sequence[Weights],
        data: Split,
        recipe: Recipe,
        seeds: Sequence[int],
        device: torch.device,
        free: int | None = None,
    ) -> FeatureBatches:
        """Return batches of every member's features of the images, or of views of them."""
        labels = data.labels.repeat(recipe.views)
        examples = [drawn(seed, len(labels), recipe.batch_size, recipe.steps) for seed in seeds]
        counts = [len(own) for own in examples]
        features = empty(sum(counts), self.architecture.features + 1, free=free)
        features[:, -1] = 1
        places = torch.split(features[:, :-1], counts)
        for weights, seed, own, place in zip(initial, seeds, examples, places, strict=True):
            encode(loaded(self.architecture, weights), views(data.images, recipe, seed, own), device, place)
        return FeatureBatches(features, examples, labels, recipe.batch_size, seeds)

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the frozen encoder's weights with the trained head's."""
        return joined(
            encoder=below(initial, "encoder"),
            head={"weight": trained["head.both"][:, :-1], "bias": trained["head.both"][:, -1]},
        )

    def prepared(self, examples: int, recipe: Recipe) -> int:
        """Return how many examples the steps draw, each view of an image counted.

        The number is exact within the first epoch. Of more steps it is that of all examples. They may draw fewer, by
        those left after the last whole batch of every epoch; the batches know the exact number.
        """
        shown = examples * recipe.views
        return min(shown, recipe.steps * min(recipe.batch_size, shown))

    def flops(self, seen: int, prepared: int) -> int:
        """Return the operations of the steps and of encoding."""
        head = head_flops(self.architecture.features, self.architecture.classes)
        return seen * head + prepared * encode_flops(self.architecture)


def loaded(architecture: Architecture, weights: Mapping[str, Tensor]) -> Classifier:
    """Return a classifier with these weights."""
    return architecture.classifier(weights)
