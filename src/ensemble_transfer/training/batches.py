"""The examples that each member sees at a step, and how their images are changed at random."""

from collections.abc import Callable
from copy import copy
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ensemble_transfer.machine import free_memory
from ensemble_transfer.models.copies import in_one_copy
from ensemble_transfer.models.device import IMAGES_SHARE
from ensemble_transfer.seeding import generator

MEMBERS_SHARE = 0.8
"""Share of a device's free memory that a group of members may take, and features of heads."""

BATCHED = frozenset({"none", "flip", "crop", "crop_flip"})
"""Augmentations that work on all images at once, and so on a GPU. Elsewhere each image has operations of its own."""

PADDING = 8
"""Crops move an image by up to its side divided by this: 4 pixels of 32."""

SMALLEST_CROP = 0.25
"""Smallest share of an image's area that a resized crop shows."""


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
        inputs: Images (examples, C, S, S), which all members share, or features (rows, features) of all members.
        labels: Labels (examples,), int64.
        batch_size: Examples in a batch; all where there are fewer.
        seeds: One seed a member, from which all of its randomness is derived.
        augment: How images are changed at random; see :class:`~ensemble_transfer.training.recipe.Recipe`.
        rows: Of features: the rows of each member's examples (members, examples), int64.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        batch_size: int,
        seeds: list[int],
        augment: str = "none",
        rows: Tensor | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.batch_size = min(batch_size, len(labels))
        self.seeds = seeds
        self.augment = augment
        self._rows = rows
        self._device = labels.device
        self._sends = ""  # what goes to the device: "data", all at once, or "batches"
        self._epoch = -1
        self._orders = [torch.empty(0)]

    def on(self, device: torch.device) -> Self:
        """Return the same batches, on a device: these, if they are there.

        A GPU gets the data once for a fit where they fit and their augmentation works on all images at once. Otherwise
        each batch is sent by itself, in one copy.
        """
        if device.type == self._device.type:
            return self
        share = IMAGES_SHARE if self._rows is None else MEMBERS_SHARE
        size = self.inputs.numel() * self.inputs.element_size() + 8 * len(self.seeds) * len(self.labels)
        at_once = self.augment in BATCHED and size <= share * free_memory(device)
        return self.sending("data" if at_once else "batches", device)

    def sending(self, what: str, device: torch.device) -> Self:
        """Return the same batches, on a device that gets the ``data`` at once or the ``batches`` one by one."""
        there = copy(self)
        there._device, there._sends, there._epoch = device, what, -1
        if what == "data":
            there.inputs, there.labels = self.inputs.to(device), self.labels.to(device)
        return there

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step."""
        epoch, position = divmod(step, len(self.labels) // self.batch_size)
        if epoch != self._epoch:
            self._epoch, self._orders = epoch, self._orders_of(epoch)
        start = position * self.batch_size
        examples, *rows = (of_epoch[:, start : start + self.batch_size] for of_epoch in self._orders)
        if self.augment != "none" and self._sends == "data":
            size, side = self.batch_size, self.inputs.shape[-1]
            drawn = [moves(self.augment, size, side, self._stream(place, step)) for place in range(len(self.seeds))]
            examples, how = self._sent([examples, torch.stack(drawn)])
            return moved(self._at(examples), how), self.labels[examples]
        inputs, labels = self._at(rows[0] if rows else examples), self.labels[examples]
        if self.augment != "none":
            apart = enumerate(inputs)
            inputs = torch.stack([augmented(own, self.augment, self._stream(place, step)) for place, own in apart])
        if self._sends == "batches":
            inputs, labels = self._sent([inputs, labels])
        return inputs, labels

    def _at(self, places: Tensor) -> Tensor:
        """Return the inputs (members, batch, ...) at places (members, batch)."""
        inputs = self.inputs.index_select(0, places.flatten())
        return inputs.reshape(*places.shape, *inputs.shape[1:])

    def _stream(self, place: int, step: int) -> torch.Generator:
        return generator(self.seeds[place], "augment", step)

    def _orders_of(self, epoch: int) -> list[Tensor]:
        """Return the order of the examples (members, examples), and that of their rows where they have some."""
        orders = [torch.stack([order(seed, epoch, len(self.labels)) for seed in self.seeds])]
        if self._rows is not None:
            orders.append(self._rows.gather(1, orders[0]))
        return self._sent(orders) if self._sends == "data" and self.augment == "none" else orders

    def _sent(self, tensors: list[Tensor]) -> list[Tensor]:
        return in_one_copy(tensors, self._device, waiting=False)


def augmented(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return augmented images (N, C, S, S) uint8; each draws for itself. ``none`` returns the images unchanged."""
    if name == "none":
        return images
    if name in BATCHED:
        return moved(images, moves(name, len(images), images.shape[-1], generator))
    from torchvision.transforms import v2  # takes seconds, and most recipes do without

    if name == "trivial":  # one random operation: TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158)
        return _one_by_one(v2.TrivialAugmentWide(), images, generator)
    shown = v2.RandomResizedCrop(images.shape[-1], scale=(SMALLEST_CROP, 1.0), antialias=True)
    return augmented(_one_by_one(shown, images, generator), "flip", generator)


def moves(name: str, images: int, side: int, generator: torch.Generator) -> Tensor:
    """Return how an augmentation of ``BATCHED`` moves each of so many images (images, 3), int64, drawn at random.

    That is the place of the window's first row and column in the image, and 1 where the window is mirrored.
    """
    drawn, reach = torch.zeros(images, 3, dtype=torch.int64), max(1, side // PADDING)
    if name in ("crop", "crop_flip"):
        drawn[:, :2] = torch.randint(2 * reach + 1, (images, 2), generator=generator) - reach
    if name in ("flip", "crop_flip"):
        drawn[:, 2] = torch.rand(images, generator=generator) < 0.5
    return drawn


def moved(images: Tensor, moves: Tensor) -> Tensor:
    """Return images (..., C, S, S), each moved as :func:`moves` (..., 3) says; beyond an edge its pixels repeat."""
    side = images.shape[-1]
    along = torch.arange(side, device=images.device)
    row, column, mirrored = moves[..., None].unbind(-2)
    rows = (along + row).clamp(0, side - 1)
    columns = (torch.where(mirrored == 1, side - 1 - along, along) + column).clamp(0, side - 1)
    of_rows = images.gather(-2, rows[..., None, :, None].expand(images.shape))
    return of_rows.gather(-1, columns[..., None, None, :].expand(images.shape))


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a transform that draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([transform(image) for image in images])
