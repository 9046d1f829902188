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

    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], functional.horizontal_flip(images), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by a few pixels; pads by repeating edge pixels."""
    from torchvision.transforms.v2 import functional

    side = images.shape[-1]
    reach = max(1, side // PADDING)
    padded = functional.pad(images, [reach], padding_mode="edge")
    corners = torch.randint(2 * reach + 1, (len(images), 2), generator=generator)
    if images.device.type == "cuda":  # a kernel for each image takes longer than its work
        return windows(padded, corners.to(images.device), side)
    moved = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners.tolist(), strict=True)]
    return torch.stack(moved)


def windows(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut a window out of each image at once, by indexing: the faster way on a GPU, the slower one on a CPU.

    Args:
        images: Images (N, C, H, W).
        corners: Upper left corners (N, 2): row and column, int64, on the same device.
        side: Height and width of the windows.
    """
    along = torch.arange(side, device=images.device)
    rows, columns = (corners[:, axis, None] + along for axis in (0, 1))
    each = torch.arange(len(images), device=images.device)
    channels = torch.arange(images.shape[1], device=images.device)
    return images[each[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]


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


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a transform that draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([transform(image) for image in images])
