"""The examples that each member sees at a step."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.copies import together
from ensemble_transfer.seeding import derive, generator
from ensemble_transfer.training.augment import BATCHED, augmented, moved, moves
from ensemble_transfer.training.memory import USABLE

SHARE = 0.1
"""Share of a device's free memory that the data of a fit may take; a group of members may take most of the rest."""


def order(seed: int, epoch: int, examples: int) -> Tensor:
    """Return the order of an epoch: a permutation of so many examples (examples,), int64."""
    return torch.randperm(examples, generator=generator(seed, "order", epoch))


def drawn(seed: int, examples: int, batch_size: int, steps: int) -> Tensor:
    """Return the examples that so many steps draw, each once and in ascending order (drawn,), int64.

    Within the first epoch these are ``steps * batch_size``. After it they may lack some of the examples that were left
    after the last whole batch of every epoch.
    """
    size = min(batch_size, examples)
    epochs, rest = divmod(steps, examples // size)
    seen = torch.zeros(examples, dtype=torch.bool)
    for epoch in range(epochs + 1):
        shown = examples // size if epoch < epochs else rest
        seen[order(seed, epoch, examples)[: shown * size]] = True
        if seen.all():
            break
    return seen.nonzero()[:, 0]


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
        self.encoded = [0] * len(seeds)
        self._epoch = -1
        self._orders = torch.empty(0)

    def on(self, device: torch.device) -> "Batches":
        """Return the same batches, on a device: these, if they are there.

        A GPU gets the data once for a fit where they take at most a tenth of its free memory and their augmentation
        works on all images at once. Otherwise each batch is sent by itself.
        """
        if device.type == self.labels.device.type:
            return self
        data = {id(inputs): inputs for inputs in self.inputs}.values()
        size = sum(inputs.numel() * inputs.element_size() for inputs in data) + 8 * len(self.seeds) * len(self.labels)
        at_once = self.augment == "none" or (self.augment in BATCHED and self._are_shared)
        stays = at_once and size <= SHARE * free_memory(device)
        return ResidentBatches(self, device) if stays else SentBatches(self, device)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        chosen = self._chosen(step)
        return self._inputs(chosen, step), self.labels[chosen]

    def _chosen(self, step: int) -> Tensor:
        """Return the examples (members, batch) of a step."""
        epoch, position = divmod(step, len(self.labels) // self.batch_size)
        if epoch != self._epoch:
            orders = torch.stack([order(seed, epoch, len(self.labels)) for seed in self.seeds])
            self._epoch, self._orders = epoch, self._kept(orders)
        start = position * self.batch_size
        return self._orders[:, start : start + self.batch_size]

    def _kept(self, orders: Tensor) -> Tensor:
        """Return the orders of an epoch where they are kept."""
        return orders

    def _inputs(self, chosen: Tensor, step: int) -> Tensor:
        """Return the inputs of the chosen examples (members, batch)."""
        if self.augment == "none" and self._are_shared:
            copied = self.inputs[0].index_select(0, chosen.flatten())
            return copied.reshape(*chosen.shape, *copied.shape[1:])
        inputs = [
            augmented(member[examples], self.augment, generator(seed, "augment", step))
            for member, examples, seed in zip(self.inputs, chosen, self.seeds, strict=True)
        ]
        return torch.stack(inputs)

    @property
    def _are_shared(self) -> bool:
        return all(inputs is self.inputs[0] for inputs in self.inputs)

    def step_seeds(self, step: int) -> list[int]:
        """Return a seed for each member for what is random in its forward pass of a step, such as dropout."""
        return [derive(seed, "step", step) for seed in self.seeds]


class ResidentBatches(Batches):
    """Batches whose data are on a device.

    It gets the orders of an epoch at once; with an augmentation, what each step chooses and draws, in one copy.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        data = {id(inputs): inputs for inputs in batches.inputs}
        sent = {key: inputs.to(device) for key, inputs in data.items()}
        inputs = [sent[id(inputs)] for inputs in batches.inputs]
        super().__init__(inputs, batches.labels.to(device), batches.batch_size, batches.seeds, batches.augment)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        if self.augment == "none":
            return super().__getitem__(step)
        images = self.inputs[0]
        streams = [generator(seed, "augment", step) for seed in self.seeds]
        drawn = [moves(self.augment, self.batch_size, images.shape[-1], stream) for stream in streams]
        chosen, how = self._sent(self._chosen(step), torch.stack(drawn))
        return moved(images, chosen, how), self.labels[chosen]

    def _kept(self, orders: Tensor) -> Tensor:
        return orders if self.augment != "none" else self._sent(orders)[0]

    def _sent(self, *drawn: Tensor) -> list[Tensor]:
        return together(drawn, self.labels.device, waiting=False)


class SentBatches(Batches):
    """Batches whose data stay where they are. Each batch is sent to a device, in one copy."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        super().__init__(batches.inputs, batches.labels, batches.batch_size, batches.seeds, batches.augment)
        self._device = device

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        inputs, labels = together(super().__getitem__(step), self._device, waiting=False)
        return inputs, labels


class FeatureBatches:
    """The batch of every step for heads in lockstep, each on features of its own; orders are those of :class:`Batches`.

    Item ``step`` holds inputs (members, batch, features + 1), whose last column is 1 for the bias, and labels (members,
    batch).

    Args:
        features: Features (drawn, features + 1) of the examples that the members' steps draw, member after member; the
            last column is 1.
        examples: These examples of each member, as :func:`drawn` returns them.
        labels: Labels (examples,) of all examples, int64.
        batch_size: Examples in a batch; all where there are fewer.
        seeds: One seed a member, from which its orders are derived.
    """

    def __init__(
        self,
        features: Tensor,
        examples: Sequence[Tensor],
        labels: Tensor,
        batch_size: int,
        seeds: Sequence[int],
    ) -> None:
        self.encoded = [len(own) for own in examples]
        self.batch_size = min(batch_size, len(labels))
        self.seeds = [*seeds]
        self._features = features
        self._labels = torch.cat([labels[own] for own in examples])
        self._rows = torch.zeros(len(seeds), len(labels), dtype=torch.int64)  # of each member's examples, in the above
        for rows, own, end in zip(self._rows, examples, accumulate(self.encoded), strict=True):
            rows[own] = torch.arange(end - len(own), end)
        self._epoch = -1
        self._order = self._ordered_labels = torch.empty(0)

    def on(self, device: torch.device) -> Self:
        """Move the data to a device; features that do not fit there stay, and each batch is sent by itself."""
        if device.type == "cpu" or self._features.nbytes < USABLE * free_memory(device):
            self._features = self._features.to(device)
        self._labels = self._labels.to(device)
        return self

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        members, examples = self._rows.shape
        epoch, position = divmod(step, examples // self.batch_size)
        if epoch != self._epoch:
            orders = [rows[order(seed, epoch, examples)] for rows, seed in zip(self._rows, self.seeds, strict=True)]
            self._epoch, self._order = epoch, torch.stack(orders).to(self._labels.device)
            self._ordered_labels = self._labels[self._order]
        chosen = slice(position * self.batch_size, (position + 1) * self.batch_size)
        rows = self._order[:, chosen].reshape(-1).to(self._features.device)
        inputs = self._features.index_select(0, rows).to(self._labels.device)
        return inputs.view(members, self.batch_size, -1), self._ordered_labels[:, chosen]
