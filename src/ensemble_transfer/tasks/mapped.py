"""Images on disk that are used like tensors: files of raw pixels, mapped into memory.

A file holds (N, C, H, W) uint8, notes as JSON, the length of the notes in 8 bytes, and a mark at the end of a whole
file. The operating system reads the pages that are used, and drops them when memory is short. Such a tensor is never
written to: its file is shared by all members, runs and jobs. It may be deleted when none of them runs.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import replacing

Notes = dict[str, str]
Shape = tuple[int, int, int]
"""Shape of one image: channels, height, width."""

SUFFIX = ".images"
CHUNK = 2**26
"""Bytes that are processed at once."""

_MARK = b"imagesv1"
_LENGTH = 8

log = logging.getLogger(__name__)


def stored(path: Path, shape: Shape, produce: Callable[[Notes], Iterable[Tensor]]) -> tuple[Tensor, Notes]:
    """Return the images of a file and its notes; the file is made first if it is missing or damaged.

    Args:
        path: The file; its name is a hash of everything that decides its content.
        shape: Shape of one image.
        produce: Yields the images in chunks (N, C, H, W), and fills in the notes.

    Raises:
        SettingError: The folder cannot be written, or has too little room.
    """
    found = _opened(path, shape)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            found = _opened(path, shape)  # by another job, meanwhile
            if found is None:
                _write(path, produce)
                found = _opened(path, shape)
    except OSError as error:
        rule = f"must be a folder that can be written: {error.strerror or error}"
        raise SettingError("cache", str(path.parent), rule) from error
    require(found is not None, "cache", str(path.parent), "its files are being changed by something else")
    assert found is not None
    return found


def require_room(folder: Path, size: int) -> None:
    """Raise a SettingError unless the disk of a folder has room for so many bytes."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    rule = f"needs {size / 2**30:.1f} GiB for the decoded images, and {free / 2**30:.1f} GiB are free"
    require(size < free, "cache", str(folder), rule)


def rows(images: Tensor, index: Tensor) -> Tensor:
    """Return ``images[index]``, index (K,) int64; rows of a mapped file are written to another mapped file."""
    if _file(images) is None:
        return images[index]
    if len(index) and torch.equal(index, torch.arange(int(index[0]), int(index[0]) + len(index))):
        return images[int(index[0]) : int(index[-1]) + 1]
    name = f"rows {hashlib.sha256(index.numpy().tobytes()).hexdigest()}"
    return _derived(images, name, (images[part] for part in torch.split(index, _rows_at_once(images))), len(index))


def each(images: Tensor, name: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``change(images)``, of the same shape; images of a mapped file are written to another mapped file.

    Args:
        images: (N, C, H, W) uint8.
        name: Description of the change; the file is named by it.
        change: The change, which treats every image by itself.
    """
    if _file(images) is None:
        return change(images)
    return _derived(images, name, (change(part) for part in chunks(images)), len(images))


def chunks(images: Tensor) -> Iterator[Tensor]:
    """Yield a tensor in parts of bounded size."""
    yield from torch.split(images, _rows_at_once(images))


def _rows_at_once(images: Tensor) -> int:
    return max(1, CHUNK // max(1, images[:1].numel() * images.element_size()))


def _file(images: Tensor) -> Path | None:
    """Return the file that a tensor is mapped from."""
    name = images.untyped_storage().filename
    return Path(name) if name else None


def _derived(images: Tensor, name: str, parts: Iterable[Tensor], count: int) -> Tensor:
    origin = _file(images)
    assert origin is not None
    address = f"{origin.stem} from {images.storage_offset()}, {tuple(images.shape)}: {name}"
    path = origin.with_name(hashlib.sha256(address.encode()).hexdigest()[:32] + SUFFIX)
    channels, height, width = images.shape[1:]

    def produce(_: Notes) -> Iterable[Tensor]:
        require_room(path.parent, count * images[:1].numel())
        return parts

    return stored(path, (channels, height, width), produce)[0]


def _opened(path: Path, shape: Shape) -> tuple[Tensor, Notes] | None:
    """Return a file's images and notes; None if it is missing or not whole."""
    if not path.is_file():
        return None
    try:
        count, notes = _ending(path, math.prod(shape))
    except ValueError:
        log.warning("%s is damaged; it is made again", path)
        return None
    if count == 0:
        return torch.empty(0, *shape, dtype=torch.uint8), notes
    # shared: a private mapping counts as memory that may be needed, and is refused where it exceeds the machine's.
    flat = torch.from_file(str(path), shared=True, size=count * math.prod(shape), dtype=torch.uint8)
    return flat.view(count, *shape), notes


def _ending(path: Path, image: int) -> tuple[int, Notes]:
    """Return the number of images, of so many bytes each, and the notes; raise a ValueError if a file is not whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LENGTH - len(_MARK)))
        end = file.read()
        length = int.from_bytes(end[:_LENGTH], "little")
        pixels = size - len(end) - length
        if end[_LENGTH:] != _MARK or pixels < 0 or pixels % image:
            raise ValueError("cut, or no such file")
        file.seek(pixels)
        about = json.loads(file.read(length))
    if about["count"] * image != pixels:
        raise ValueError(f"{pixels} bytes of pixels are not {about['count']} images")
    return about["count"], about["notes"]


def _write(path: Path, produce: Callable[[Notes], Iterable[Tensor]]) -> None:
    notes: Notes = {}
    count = 0
    with replacing(path) as partial, partial.open("wb") as file:
        for part in produce(notes):
            file.write(part.contiguous().numpy().data)
            count += len(part)
        tail = json.dumps({"count": count, "notes": notes}).encode()
        file.write(tail + len(tail).to_bytes(_LENGTH, "little") + _MARK)
