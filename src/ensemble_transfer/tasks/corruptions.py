"""Corruptions of images, at severities 1 to 5.

The kinds follow Hendrycks and Dietterich (2019, arXiv 1903.12261); the strengths are ours. Lengths scale with
the image size, so that they suit 28 pixels as well as 224.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from ensemble_transfer.errors import require
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.limits import SEVERITIES

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
"""(images (N, C, H, W) uint8, severity 1 to 5, randomness) -> images of the same shape and type."""

CHUNK = 2**24
"""Pixel values that are processed at once. It bounds memory; it is a constant because the randomness depends on it."""

GRAY = 127.0


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise, like that of a sensor in poor light."""
    deviation = 255 * _pick(severity, 0.08, 0.12, 0.18, 0.26, 0.38)
    return _bytes(images + deviation * torch.randn(images.shape, generator=generator))


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add Poisson noise, as from few photons: stronger where the image is bright."""
    photons = _pick(severity, 60, 25, 12, 5, 3)
    return _bytes(torch.poisson(images / 255 * photons, generator=generator) / photons * 255)


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Set a share of the values to black or white."""
    share = _pick(severity, 0.03, 0.06, 0.09, 0.17, 0.27)
    chance = torch.rand(images.shape, generator=generator)
    return images.masked_fill(chance < share / 2, 0).masked_fill(chance > 1 - share / 2, 255)


def gaussian_blur(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    """Blur with a standard deviation that is a share of the image's side."""
    side = min(images.shape[-2:])
    sigma = side * _pick(severity, 0.014, 0.022, 0.03, 0.04, 0.055)
    reach = min(math.ceil(3 * sigma), side - 1)
    kernel = 2 * reach + 1
    # Two passes of one dimension cost far less than one of two.
    wide = functional.gaussian_blur(images.float(), [kernel, 1], [sigma, sigma])
    return _bytes(functional.gaussian_blur(wide, [1, kernel], [sigma, sigma]))


def contrast(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    """Draw every pixel towards the mean of its image."""
    faded: Tensor = functional.adjust_contrast(images, _pick(severity, 0.7, 0.5, 0.35, 0.2, 0.1))
    return faded


def brightness(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    """Add a constant; a factor would leave a black background black."""
    return _bytes(images + 255 * _pick(severity, 0.1, 0.2, 0.3, 0.4, 0.5))


def jpeg(images: Tensor, severity: int, _: torch.Generator) -> Tensor:
    """Compress as JPEG."""
    pressed: Tensor = functional.jpeg(images, int(_pick(severity, 40, 25, 15, 9, 5)))
    return pressed


def rotation(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Rotate to the left or to the right; the corners turn black."""
    degrees = _pick(severity, 8, 16, 24, 34, 45)
    left = torch.rand(len(images), generator=generator) < 0.5
    turned = images.clone()
    for members, sign in ((left, 1), (~left, -1)):
        turned[members] = functional.rotate(images[members], sign * degrees, interpolation=InterpolationMode.BILINEAR)
    return turned


def translation(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Move towards one of the four corners, by a share of the side, at least one pixel; the gap is black."""
    share = _pick(severity, 0.04, 0.08, 0.12, 0.16, 0.2)
    right, down = (max(1, round(share * side)) for side in (images.shape[3], images.shape[2]))
    corner = torch.randint(4, (len(images),), generator=generator)
    moved = images.clone()
    for place, (x, y) in enumerate(((right, down), (right, -down), (-right, down), (-right, -down))):
        members = corner == place
        moved[members] = functional.affine(images[members], angle=0, translate=[x, y], scale=1, shear=[0, 0])
    return moved


def occlusion(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Cover a random place with a gray square."""
    side = _pick(severity, 0.2, 0.3, 0.4, 0.5, 0.6)
    top, left = torch.rand(2, len(images), 1, generator=generator) * (1 - side)
    rows = _between(top, top + side, images.shape[2])
    columns = _between(left, left + side, images.shape[3])
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], GRAY)


_KINDS = (gaussian_noise, shot_noise, impulse_noise, gaussian_blur, contrast, brightness, jpeg, rotation, translation)
CORRUPTIONS: Mapping[str, Corruption] = {corruption.__name__: corruption for corruption in (*_KINDS, occlusion)}


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt images (N, C, H, W) uint8, gray or RGB; the same arguments always give the same images.

    Args:
        images: The images.
        name: A key of :data:`CORRUPTIONS`.
        severity: 1 (slight) to 5 (strong).
        seed: Seed of the noise, the directions and the places.

    Raises:
        SettingError: The name, the severity or the images cannot be used.
    """
    require(name in CORRUPTIONS, "name", name, f"must be one of {', '.join(CORRUPTIONS)}")
    require(severity in SEVERITIES, "severity", severity, "must be a whole number from 1 to 5")
    fits = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    rule = "must be uint8 of shape (N, 1 or 3, H, W)"
    require(fits, "images", f"{images.dtype} {tuple(images.shape)}", rule)
    generator = torch.Generator().manual_seed(seed)
    corrupted = empty(*images.shape, dtype=torch.uint8)
    for places in torch.split(torch.arange(len(images)), max(1, CHUNK // images[0].numel())):
        corrupted[places] = CORRUPTIONS[name](images[places], severity, generator)
    return corrupted


def _pick(severity: int, *strengths: float) -> float:
    return strengths[severity - 1]


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _between(low: Tensor, high: Tensor, length: int) -> Tensor:
    """Return which pixel centres of a side of this length lie between two shares of it: (N, length) bool."""
    centres = (torch.arange(length) + 0.5) / length
    return (low <= centres) & (centres < high)
