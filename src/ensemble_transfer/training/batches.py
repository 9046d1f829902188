"""The examples that each member sees at a step."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ensemble_transfer.seeding import derive, generator
from ensemble_transfer.training.augment import BATCHED, augmented
from ensemble_transfer.training.memory import free_memory

SHARE = 0.1
"""Share of a device's free memory that the data of a fit may take; a group of members may take most of the rest."""


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of every step for members in lockstep, each in an order of its own.

    Item ``step`` holds inputs (members, batch, ...) and labels (members, batch). It depends on the members' seeds and
    the step alone. Each epoch is a permutation, drawn for each member. Examples left after its last whole batch are
    dropped, since BatchNorm cannot train on a batch of one. Augmentations are drawn for each member and step.

    Args:
        inputs: Inputs (examples, ...) of every member; members may share a tensor.
        labels: Labels (examples,), int64.
        batch_size: Examples in a batch; all where there are fewer.
        seeds: One seed a member, from which all of its randomness is derived.
        augment: How inputs that are images are changed at random; see
            :class:`~ensemble_transfer.training.recipe.Recipe`.
    """

    def __init__(
        self, inputs: list[Tensor], labels: Tensor, batch_size: int, seeds: list[int], augment: str = "none"
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.batch_size = min(batch_size, len(labels))
        self.seeds = seeds
        self.augment = augment
        self._epoch = -1
        self._orders: list[Tensor] = []

    def on(self, device: torch.device) -> "Batches":
        """Return the same batches, with the data on a device: these, if they are there or are better left here.

        A GPU gets the data once for a fit where they take at most a tenth of its free memory and their augmentation
        works on all images at once. Otherwise each batch is sent by itself.
        """
        data = list({id(inputs): inputs for inputs in self.inputs}.values())
        size = sum(inputs.numel() * inputs.element_size() for inputs in data)
        if device.type == self.labels.device.type or self.augment not in BATCHED or size > SHARE * free_memory(device):
            return self
        sent = {id(inputs): inputs.to(device) for inputs in data}
        inputs = [sent[id(member)] for member in self.inputs]
        return Batches(inputs, self.labels.to(device), self.batch_size, self.seeds, self.augment)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        epoch, position = divmod(step, len(self.labels) // self.batch_size)
        if epoch != self._epoch:
            self._epoch, self._orders = epoch, [self._order(seed, epoch) for seed in self.seeds]
        start = position * self.batch_size
        chosen = torch.stack([order[start : start + self.batch_size] for order in self._orders]).to(self.labels.device)
        labels = self.labels[chosen]
        if self.augment == "none" and all(inputs is self.inputs[0] for inputs in self.inputs):
            copied = self.inputs[0].index_select(0, chosen.flatten())
            return copied.reshape(*chosen.shape, *copied.shape[1:]), labels
        inputs = [
            augmented(member[examples], self.augment, generator(seed, "augment", step))
            for member, examples, seed in zip(self.inputs, chosen, self.seeds, strict=True)
        ]
        return torch.stack(inputs), labels

    def step_seeds(self, step: int) -> list[int]:
        """Return a seed for each member for what is random in its forward pass of a step, such as dropout."""
        return [derive(seed, "step", step) for seed in self.seeds]

    def _order(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(len(self.labels), generator=generator(seed, "order", epoch))
