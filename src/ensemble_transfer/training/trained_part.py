"""The part of a member that a fit trains: all of it, or its head on the features of the frozen encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ensemble_transfer.models.backbone import Architecture, Classifier
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.features import features, features_of_views
from ensemble_transfer.training.flops import encode_flops, head_flops, step_flops
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

    def module(self, initial: Weights) -> nn.Module:
        """Return the module to train, whose head's parameters are named ``head.*``."""

    def batches(
        self, initial: Sequence[Weights], data: Split, recipe: Recipe, seeds: Sequence[int], device: torch.device
    ) -> Batches:
        """Return the modules' inputs and labels at every step, from their initial weights and streams of randomness."""

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the member's weights from those of the trained module."""

    def prepared(self, examples: int, recipe: Recipe) -> int:
        """Return how many examples, of a task of so many, went forward before the first step."""

    def flops(self, seen: int, prepared: int) -> int:
        """Return the operations of seeing so many examples in training steps, after preparing so many."""


@dataclass(frozen=True)
class WholeMember:
    """Encoder and head, trained on images."""

    architecture: Architecture
    name: str = "whole"

    def module(self, initial: Weights) -> nn.Module:
        """Return the member's classifier."""
        return loaded(self.architecture, initial)

    def batches(
        self, initial: Sequence[Weights], data: Split, recipe: Recipe, seeds: Sequence[int], device: torch.device
    ) -> Batches:
        """Return batches of the images, which all members share."""
        del device
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


@dataclass(frozen=True)
class HeadOnFeatures:
    """The head, trained on the features of a frozen encoder, each computed once."""

    architecture: Architecture
    name: str = "head"

    def module(self, initial: Weights) -> nn.Module:
        """Return the member's head."""
        weights = below(initial, "head")
        classes, width = weights["weight"].shape
        module = nn.Sequential()
        module.add_module("head", nn.Linear(width, classes))
        module.load_state_dict(joined(head=weights), strict=True)
        return module

    def batches(
        self, initial: Sequence[Weights], data: Split, recipe: Recipe, seeds: Sequence[int], device: torch.device
    ) -> Batches:
        """Return batches of every member's features of the images, or of views of them."""
        inputs = [
            self._features(weights, data.images, recipe, seed, device)
            for weights, seed in zip(initial, seeds, strict=True)
        ]
        return Batches(inputs, data.labels.repeat(recipe.views), recipe.batch_size, [*seeds])

    def _features(self, weights: Weights, images: Tensor, recipe: Recipe, seed: int, device: torch.device) -> Tensor:
        classifier = loaded(self.architecture, weights)
        if recipe.augment == "none":
            return features(classifier, images, device)
        return features_of_views(classifier, images, device, recipe, seed)

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the frozen encoder's weights with the trained head's."""
        return joined(encoder=below(initial, "encoder")) | dict(trained)

    def prepared(self, examples: int, recipe: Recipe) -> int:
        """Return the number of examples that were encoded, every view of each."""
        return examples * recipe.views

    def flops(self, seen: int, prepared: int) -> int:
        """Return the operations of the steps and of encoding."""
        head = head_flops(self.architecture.features, self.architecture.classes)
        return seen * head + prepared * encode_flops(self.architecture)


def loaded(architecture: Architecture, weights: Mapping[str, Tensor]) -> Classifier:
    """Return a classifier with these weights."""
    return architecture.classifier(weights)
