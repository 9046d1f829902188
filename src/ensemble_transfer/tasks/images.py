"""Images as tensors: (N, C, H, W) uint8, gray (C=1) or RGB (C=3)."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

PARTS = 2**15
"""Weights of pixels are whole multiples of one over this, so that their sums over bytes are exact in float32."""

# torchvision takes seconds to import, so loaders are built and checked without it.


def resize(images: Tensor, size: int) -> Tensor:
    """Scale the largest centred square to (size, size), by antialiased bilinear interpolation.

    The aspect ratio is kept, and the long side is cropped: (N, C, H, W) uint8 -> (N, C, size, size) uint8.
    """
    if images.shape[-2:] == (size, size):
        return images
    from torchvision.transforms.v2 import functional

    short = min(images.shape[-2:])
    square = functional.center_crop(images, [short, short])
    scaled: Tensor = functional.resize(square, [size, size], antialias=True)
    return scaled


def scaled(images: Tensor, size: int) -> Tensor:
    """Scale square images down: (N, C, S, S) uint8 -> (N, C, size, size) uint8; those of this size are returned.

    Antialiased bilinear interpolation, as Pillow's: rows, then columns, each a product with a matrix, rounded to bytes.
    All sums are exact, so that a result depends neither on the device nor on the images beside it. That holds in
    float32: not in TF32, and not under an autocast to half precision.

    Raises:
        ValueError: If the images are smaller.
    """
    side = images.shape[-1]
    if side == size:
        return images
    if side < size:
        raise ValueError(f"images of {side} pixels are not scaled up to {size}")
    weights = torch.from_numpy(_weights(side, size)).to(images.device)
    return _rounded(weights @ _rounded(images.float() @ weights.T)).to(torch.uint8)


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(0.5).floor_()


@lru_cache(maxsize=64)
def _weights(side: int, size: int) -> NDArray[np.float32]:
    """Return the weight of every pixel of a side in every pixel of the smaller one: (size, side) float32.

    They are those of a triangle, as wide as two pixels of the smaller side, and add up to one.
    """
    factor = side / size
    centres = (np.arange(size)[:, None] + 0.5) * factor
    triangle = np.clip(1 - np.abs(np.arange(side) + 0.5 - centres) / factor, 0, None)
    parts = np.rint(triangle / triangle.sum(1, keepdims=True) * PARTS)
    parts[np.arange(size), parts.argmax(1)] += PARTS - parts.sum(1)  # what rounding has left
    weights: NDArray[np.float32] = (parts / PARTS).astype(np.float32)
    return weights


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Convert between gray and RGB: (N, 1 or 3, H, W) uint8 -> (N, channels, H, W) uint8.

    Gray is Pillow's ITU-R 601-2 luma in integers, so that RGB made from gray converts back to the same gray.
    (torchvision's weights sum to 0.9999 and darken it by one.)
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    red, green, blue = images.int().unbind(1)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.to(torch.uint8)[:, None]


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate (N, C, S, S) uint8 counter-clockwise; multiples of 90 degrees are exact, else corners become black."""
    if degrees % 360 == 0:
        return images
    from torchvision.transforms.v2 import InterpolationMode, functional

    turned: Tensor = functional.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)
    return turned.contiguous()


def pixels(image: Image.Image) -> Tensor:
    """Return a Pillow image of any mode as (1 or 3, H, W) uint8.

    Transparent pixels become white, since icons and drawings are made for paper. 16 bits become 8.

    Raises:
        ValueError: The mode has no 8-bit meaning (32-bit floats) or Pillow cannot convert it.
    """
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no agreed range")
    if image.mode.startswith("I"):
        array = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
    else:
        array = np.array(_opaque(image))
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1)


def fit(image: Image.Image, image_size: int, channels: int) -> Tensor:
    """Return a Pillow image as (channels, image_size, image_size) uint8.

    Raises:
        ValueError: See :func:`pixels`.
    """
    return with_channels(resize(pixels(image)[None], image_size), channels)[0]


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode.lower().endswith("a") or "transparency" in image.info:
        above = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, above).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
