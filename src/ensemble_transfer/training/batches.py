"""The examples that each member sees at a step."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.copies import together
from ensemble_transfer.seeding import derive, generator
from ensemble_transfer.training.augment import BATCHED, augmented, moved, moves

SHARE = 0.1
"""Share of a device's free memory that the data of a fit may take; a group of members may take most of the rest."""


def order(seed: int, epoch: int, examples: int) -> Tensor:
    """Return the order of an epoch: a permutation of so many examples (examples,), int64."""
    return torch.randperm(examples, generator=generator(seed, "order", epoch))


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
