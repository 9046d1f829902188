"""Which part of a member a fit trains: all of it, or the head on what the frozen encoder says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ensemble_transfer.backbone import Architecture, Classifier
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.features import features
from ensemble_transfer.training.flops import encode_flops, head_flops, step_flops
from ensemble_transfer.weights import Weights, below, joined


class Part(Protocol):
    """What a fit has to know of the part that it trains."""

    @property
    def name(self) -> str:
        """Name of the part, which belongs to a fit's key."""

    @property
    def architecture(self) -> Architecture:
        """Architecture of the member."""

    def module(self, initial: Weights) -> nn.Module:
        """Return the module to train, whose head's parameters are named ``head.*``."""

    def inputs(self, initial: Weights, data: Split, device: torch.device) -> Tensor:
        """Return the module's inputs, one an example."""

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the member's weights from those of the trained module."""

    def flops(self, seen: int, examples: int) -> int:
        """Return the operations of seeing so many examples, of a task of so many, in training steps."""

    def prepared(self, examples: int) -> int:
        """Return how many examples went forward before the first step."""


@dataclass(frozen=True)
class Whole:
    """Encoder and head, trained on images."""

    architecture: Architecture
    name: str = "whole"

    def module(self, initial: Weights) -> nn.Module:
        """Return the member's classifier."""
        return loaded(self.architecture, initial)

    def inputs(self, initial: Weights, data: Split, device: torch.device) -> Tensor:
        """Return the images, the same for every member."""
        del initial, device
        return data.images

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the trained weights."""
        del initial
        return trained

    def flops(self, seen: int, examples: int) -> int:
        """Return the operations of the steps."""
        del examples
        return seen * step_flops(self.architecture)

    def prepared(self, examples: int) -> int:
        """Return 0: images need no preparation."""
        del examples
        return 0


@dataclass(frozen=True)
class Head:
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

    def inputs(self, initial: Weights, data: Split, device: torch.device) -> Tensor:
        """Return the member's features of the images."""
        return features(loaded(self.architecture, initial), data.images, device)

    def weights(self, initial: Weights, trained: Weights) -> Weights:
        """Return the frozen encoder's weights with the trained head's."""
        return joined(encoder=below(initial, "encoder")) | dict(trained)

    def flops(self, seen: int, examples: int) -> int:
        """Return the operations of the steps and of encoding every example once."""
        head = head_flops(self.architecture.features, self.architecture.classes)
        return seen * head + examples * encode_flops(self.architecture)

    def prepared(self, examples: int) -> int:
        """Return the number of examples that were encoded."""
        return examples


def loaded(architecture: Architecture, weights: Mapping[str, Tensor]) -> Classifier:
    """Return a classifier with these weights."""
    classifier = architecture.build()
    classifier.load_state_dict(dict(weights), strict=True)
    return classifier
