"""Chosen images: an index instead of a copy.

Training, validation and test images, of any fold and seed, so share one file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


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
        self.shape = torch.Size((len(index), *images.shape[1:]))
        self.ndim, self.dtype, self.device = images.ndim, images.dtype, images.device

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
        return getattr(self.read(), name)

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return self.shape.numel() * self.element_size()

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def element_size(self) -> int:
        """Return the bytes of a value."""
        return self.images.element_size()

    def index_select(self, dim: int, chosen: Tensor) -> Tensor:
        """Return some of the images; ``dim`` is 0."""
        assert dim == 0
        return self.images.index_select(0, self.index[chosen])

    def split(self, size: Any, dim: int = 0) -> Any:  # noqa: ANN401  # as a tensor's
        """Return parts of this size, of which none is read."""
        return self._parts(torch.split, size, dim)

    def tensor_split(self, parts: Any, dim: int = 0) -> Any:  # noqa: ANN401  # as a tensor's
        """Return so many parts of nearly equal size, of which none is read."""
        return self._parts(torch.tensor_split, parts, dim)

    def _parts(self, divide: Callable[..., Any], by: Any, dim: int) -> Any:  # noqa: ANN401
        if dim:
            return divide(self.read(), by, dim)
        return tuple(ChosenImages(self.images, part) for part in divide(self.index, by))

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        if func in (torch.split, torch.tensor_split) and isinstance(args[0], cls):
            return getattr(args[0], func.__name__)(*args[1:], **(kwargs or {}))
        return func(*tree_map_only(cls, cls.read, tuple(args)), **tree_map_only(cls, cls.read, dict(kwargs or {})))


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, other: getattr(self.read(), name)(other)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ChosenImages, f"__{_name}__", _operator(f"__{_name}__"))  # Python looks for operators in the class alone
