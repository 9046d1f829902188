"""Images as they are given in Python: arrays, files, folders, encoded pictures."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.arrays import image_array, read_images
from ensemble_transfer.tasks.folder import image_files
from ensemble_transfer.tasks.images import resize, with_channels
from ensemble_transfer.tasks.pictures import Pictures, decoded, decoded_parts, files

Array: TypeAlias = NDArray[Any] | Tensor
GivenImages: TypeAlias = Array | str | Path | bytes | Sequence[str | Path | bytes]
"""What images can be given as: an array, a file, a folder, the bytes of a file, or a list of files or of bytes."""

_AT_ONCE = 256
"""Images of an array that are scaled at once."""


def read_pictures(given: GivenImages, image_size: int, channels: int) -> Tensor:
    """Return images as (N, channels, image_size, image_size) uint8: the largest centred square of each, scaled.

    Raises:
        SettingError: If they are no images, or a file cannot be read.
    """
    images = _opened(given)
    if isinstance(images, Tensor):
        return with_channels(resize(images, image_size), channels)
    found, broken = decoded(images, image_size, channels)
    _require_whole(images, broken)
    return found


def read_in_parts(given: GivenImages, image_size: int, channels: int) -> Iterator[Tensor]:
    """Yield images as :func:`read_pictures` returns them, some hundreds at a time."""
    images, broken = _opened(given), dict[int, str]()
    if isinstance(images, Tensor):
        yield from (with_channels(resize(part, image_size), channels) for part in torch.split(images, _AT_ONCE))
        return
    for part in decoded_parts(images, image_size, channels, broken):
        _require_whole(images, broken)
        yield part
    _require_whole(images, broken)


def paths_of(given: object) -> list[Path] | None:
    """Return a list of files as paths; None for anything else."""
    listed: Any = given.tolist() if hasattr(given, "tolist") and getattr(given, "ndim", 0) == 1 else given
    return [Path(item).expanduser() for item in listed] if _all(listed, str, Path) else None


def _opened(given: GivenImages) -> Pictures | Tensor:
    """Return the pictures of files or bytes, and an array as (N, C, H, W) uint8."""
    if isinstance(given, str | Path | bytes):
        given = [given]
    if _all(given, bytes):
        return _encoded(given)  # type: ignore[arg-type]  # what was just checked
    paths = paths_of(given)
    if paths is None:
        return read_images("images", image_array("images", given))  # type: ignore[arg-type]  # no paths
    found = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    require(bool(found), "images", [str(path) for path in paths], "must name an image")
    return files(found)


def _encoded(given: Sequence[bytes]) -> Pictures:
    names = [f"bytes of image {place}" for place in range(len(given))]
    return Pictures(names, lambda place: Image.open(BytesIO(given[place])), lambda: "")


def _require_whole(pictures: Pictures, broken: Mapping[int, str]) -> None:
    for place, reason in broken.items():
        raise SettingError("images", pictures.names[place], f"cannot be read: {reason}")


def _all(given: object, *types: type) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(item, types) for item in given)
