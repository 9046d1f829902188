"""Chosen images: an index instead of a copy.

Training, validation and test images, of any fold and seed, so share one file.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


def parts(images: Tensor, size: int) -> Iterator[Tensor]:
    """Yield images in parts of so many, and the rest; parts of chosen images are read where they are used."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


class ChosenImages(Dataset[Tensor]):
    """``images[index]``, which is read where it is used. Slices and parts of it are not read until they are used.

    It has what training and predicting ask of a tensor of images. For anything else, :meth:`read` it.

    Args:
        images: All images (N, C, H, W), or chosen ones.
        index: Positions of the chosen ones, (K,) int64.
    """

    images: Tensor
    index: Tensor
    shape: torch.Size
    ndim: int
    dtype: torch.dtype

    def __init__(self, images: Any, index: Tensor) -> None:  # noqa: ANN401  # a tensor, or chosen images
        chosen = isinstance(images, ChosenImages)
        self.images, self.index = (images.images, images.index[index]) if chosen else (images, index)
        self.shape = torch.Size([len(index), *images.shape[1:]])
        self.ndim, self.dtype = images.ndim, images.dtype

    def read(self) -> Tensor:
        """Return the images as a tensor."""
        return self.images[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"ChosenImages({len(self)} of {len(self.images)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChosenImages":
        return self  # its file is never written to

    def __getitem__(self, chosen: Any) -> Any:  # noqa: ANN401  # a slice, a position or positions
        """Return the images at positions, as a tensor; those of a slice are not read."""
        index = self.index[chosen]
        return ChosenImages(self.images, index) if isinstance(chosen, slice) else self.images[index]

    def index_select(self, dim: int, chosen: Tensor) -> Tensor:
        """Return some of the images; ``dim`` is 0."""
        return self.images.index_select(dim, self.index[chosen])

    def to(self, device: torch.device | str) -> Tensor:
        """Return the images on a device."""
        return self.read().to(device)

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return self.images.element_size()

    @property
    def nbytes(self) -> int:
        """Bytes of all images, read."""
        return self.numel() * self.element_size()
