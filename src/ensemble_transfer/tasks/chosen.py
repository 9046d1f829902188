"""Chosen images: an index instead of a copy.

Training, validation and test images, of any fold and seed, so share one file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_KNOWN = ("shape", "ndim", "dtype", "device", "nbytes", "numel", "element_size")
"""What is known of images that were not read."""


class ChosenImages:
    """``images[index]``, which is read where it is used. Slices and parts of it are not read until they are used.

    It stands for a tensor: whatever else is asked of it, is asked of the images that were read.

    Args:
        images: All images (N, C, H, W), or chosen ones.
        index: Positions of the chosen ones, (K,) int64.
    """

    def __init__(self, images: Tensor, index: Tensor) -> None:
        if isinstance(images, ChosenImages):
            images, index = images.images, images.index[index]
        self.images = images
        self.index = index

    def read(self) -> Tensor:
        """Return the images as a tensor."""
        return self.images[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"ChosenImages({len(self)} of {len(self.images)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChosenImages":
        return self  # its file is never written to

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: ANN401  # as NumPy wants it
        return self.read().numpy().astype(dtype or "uint8", copy=False)

    def __getitem__(self, chosen: Any) -> Any:  # noqa: ANN401  # as a tensor's
        if isinstance(chosen, slice):
            return ChosenImages(self.images, self.index[chosen])
        if isinstance(chosen, tuple):
            return self.read()[chosen]
        return self.images[self.index[chosen]]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # as a tensor's
        if name.startswith("__") or name in ("images", "index"):  # what copying and pickling look for
            raise AttributeError(name)
        like = self.images[:1].expand(len(self.index), *self.images.shape[1:])  # one image, as often as there are some
        return getattr(like if name in _KNOWN else self.read(), name)

    def index_select(self, dim: int, chosen: Tensor) -> Tensor:
        """Return some of the images; ``dim`` is 0."""
        return self.images.index_select(dim, self.index[chosen])

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        if func in (torch.split, torch.tensor_split) and len(args) == 2 and not (kwargs or {}).get("dim"):
            return tuple(ChosenImages(args[0].images, part) for part in func(args[0].index, args[1]))
        return func(*tree_map_only(cls, cls.read, tuple(args)), **tree_map_only(cls, cls.read, dict(kwargs or {})))
