"""Random augmentations of images: moves of all images at once, and torchvision's transforms of one after another."""

from collections.abc import Callable

import torch
from torch import Tensor

# torchvision takes seconds to import, and most recipes do without.

AUGMENTATIONS = ("flip", "crop", "crop_flip", "resized_crop", "trivial")

BATCHED = frozenset({"none", "flip", "crop", "crop_flip"})
"""Augmentations that work on all images at once, and so on a GPU. Elsewhere each image has operations of its own."""

PADDING = 8
"""Crops move an image by up to its side divided by this: 4 pixels of 32."""

SMALLEST_CROP = 0.25
"""Smallest share of an image's area that a resized crop shows."""


def augmented(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return augmented images (N, C, S, S) uint8; each draws for itself. ``none`` returns the images unchanged."""
    if name == "none":
        return images
    if name in BATCHED:
        return moved(images, moves(name, len(images), images.shape[-1], generator))
    from torchvision.transforms import v2

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
