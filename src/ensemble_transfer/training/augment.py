"""Random augmentations of images, by torchvision's transforms."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

# torchvision takes seconds to import, and most recipes do without.

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Maps images (N, C, S, S) uint8 and a generator to augmented images of the same shape; each image draws for itself."""

PADDING = 8
"""Crops move an image by up to its side divided by this: 4 pixels of 32."""

SMALLEST_CROP = 0.25
"""Smallest share of an image's area that a resized crop shows."""


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    from torchvision.transforms.v2 import functional

    mirrored = _mirrored(len(images), generator)
    return torch.where(mirrored[:, None, None, None], functional.horizontal_flip(images), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by a few pixels; pads by repeating edge pixels."""
    from torchvision.transforms.v2 import functional

    side = images.shape[-1]
    padded = functional.pad(images, [_reach(side)], padding_mode="edge")
    corners = _corners(len(images), side, generator).tolist()
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply :func:`crop`, then :func:`flip`."""
    return flip(crop(images, generator), generator)


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop a random part of each image, scale it to full size, and flip: for photographs."""
    from torchvision.transforms import v2

    shown = v2.RandomResizedCrop(images.shape[-1], scale=(SMALLEST_CROP, 1.0), antialias=True)
    return flip(_one_by_one(shown, images, generator), generator)


def trivial(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one random operation to each image: TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158)."""
    from torchvision.transforms import v2

    return _one_by_one(v2.TrivialAugmentWide(), images, generator)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    augmentation.__name__: augmentation for augmentation in (flip, crop, crop_flip, resized_crop, trivial)
}

BATCHED = frozenset({"none", "flip", "crop", "crop_flip"})
"""Augmentations that work on all images at once, and so on a GPU. Elsewhere each image has operations of its own."""


def augmented(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return augmented images; ``none`` returns the images unchanged."""
    return images if name == "none" else AUGMENTATIONS[name](images, generator)


def moves(name: str, images: int, side: int, generator: torch.Generator) -> Tensor:
    """Return how an augmentation of ``BATCHED`` moves each of so many images (images, 3), int64.

    That is the place of the window's first row and column in the image, and 1 where the window is mirrored. The draws
    are those of :func:`augmented`.
    """
    drawn = torch.zeros(images, 3, dtype=torch.int64)
    if name in ("crop", "crop_flip"):
        drawn[:, :2] = _corners(images, side, generator) - _reach(side)
    if name in ("flip", "crop_flip"):
        drawn[:, 2] = _mirrored(images, generator)
    return drawn


def moved(images: Tensor, chosen: Tensor, moves: Tensor) -> Tensor:
    """Return chosen images, moved, all at once by indexing: the faster way on a GPU, the slower one on a CPU.

    Args:
        images: All images (N, C, S, S).
        chosen: Which ones (...), int64, on the same device.
        moves: How each is moved (..., 3); see :func:`moves`.

    Returns:
        (..., C, S, S).
    """
    side = images.shape[-1]
    along = torch.arange(side, device=images.device)
    row, column, mirrored = moves[..., None].unbind(-2)
    rows = (along + row).clamp(0, side - 1)  # beyond an edge, its pixels are repeated
    columns = (torch.where(mirrored == 1, side - 1 - along, along) + column).clamp(0, side - 1)
    channels = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return images[chosen[..., None, None, None], channels, rows[..., None, :, None], columns[..., None, None, :]]


def _mirrored(images: int, generator: torch.Generator) -> Tensor:
    return torch.rand(images, generator=generator) < 0.5


def _corners(images: int, side: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2 * _reach(side) + 1, (images, 2), generator=generator)


def _reach(side: int) -> int:
    """Return by how many pixels a crop moves an image at most."""
    return max(1, side // PADDING)


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a transform that draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([transform(image) for image in images])
