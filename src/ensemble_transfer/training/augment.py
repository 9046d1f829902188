"""Images changed at random while a member is trained, by torchvision's transforms."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

# torchvision takes seconds to import, and most recipes do without.

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""(images (N, C, S, S) uint8, randomness) -> images of the same shape and type, each changed by itself."""

PADDING = 8
"""Crops move an image by up to its side divided by this: 4 pixels of 32."""

SMALLEST_CROP = 0.25
"""Smallest share of an image's area that a resized crop shows."""


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, left to right."""
    from torchvision.transforms.v2 import functional

    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], functional.horizontal_flip(images), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by a few pixels; its edge is continued behind it, whatever its ground is."""
    from torchvision.transforms.v2 import functional

    side = images.shape[-1]
    reach = max(1, side // PADDING)
    padded = functional.pad(images, [reach], padding_mode="edge")
    corners = torch.randint(2 * reach + 1, (len(images), 2), generator=generator).tolist()
    moved = [image[:, top : top + side, left : left + side] for image, (top, left) in zip(padded, corners, strict=True)]
    return torch.stack(moved)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move and mirror."""
    return flip(crop(images, generator), generator)


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Show a part of every image, scaled to the whole, and mirror: for photographs."""
    from torchvision.transforms import v2

    shown = v2.RandomResizedCrop(images.shape[-1], scale=(SMALLEST_CROP, 1.0), antialias=True)
    return flip(_one_by_one(shown, images, generator), generator)


def trivial(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change every image by one operation: TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158)."""
    from torchvision.transforms import v2

    return _one_by_one(v2.TrivialAugmentWide(), images, generator)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    augmentation.__name__: augmentation for augmentation in (flip, crop, crop_flip, resized_crop, trivial)
}


def augmented(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return images changed at random; ``none`` returns them as they are."""
    return images if name == "none" else AUGMENTATIONS[name](images, generator)


def _one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a transform that draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([transform(image) for image in images])
