"""Decode pictures, once, into memory or onto disk."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import Progress
from torch import Tensor

from ensemble_transfer.machine import progress_console, usable_cores
from ensemble_transfer.tasks.images import fit
from ensemble_transfer.tasks.mapped import SUFFIX, Notes, Shape, require_room, stored

SCHEMA = 1
"""Version of the decoding; raised whenever the same picture would give other pixels."""

BROKEN = (
    OSError,  # truncated, empty, unreadable, dangling link
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

LONG = 2000
"""Number of pictures from which on a progress bar is shown."""

_AT_ONCE = 2**25
"""Bytes of pixels that are decoded at once."""

_LOOKED_AT = 8
"""Pictures that are opened to find out what they look like."""
_THUMBNAIL = 32
_COLOURED = 4
"""Mean difference between the channels, of 255, above which a picture has colours; scans of paper have a tint."""


class Pictures(Protocol):
    """Encoded pictures in a fixed order."""

    def __len__(self) -> int:
        """Return their number."""

    def name(self, place: int) -> str:
        """Return the name of a picture for messages."""

    def open(self, place: int) -> Image.Image:
        """Open a picture; raise one of :data:`BROKEN` where that is impossible."""

    def identity(self) -> str:
        """Return a text that changes with the content: while it stays the same, nothing is decoded again."""


@dataclass(frozen=True)
class Files:
    """Image files.

    Args:
        paths: Paths of the files.
        names: Names for messages.
    """

    paths: Sequence[Path]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, place: int) -> str:
        """Return the name of a picture for messages."""
        return self.names[place]

    def open(self, place: int) -> Image.Image:
        """Open a picture; see :class:`Pictures`."""
        path = self.paths[place]
        if not path.exists():
            raise OSError("a link to nothing" if path.is_symlink() else "does not exist")
        if path.stat().st_size == 0:
            raise OSError("an empty file")
        return Image.open(path)

    def identity(self) -> str:
        """Return a SHA-256 of the files' paths, sizes, times of change and permissions."""
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                stat = path.stat()
                version = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_mode}"
            except OSError:
                version = "none"
            digest.update(os.fsencode(path.absolute()) + b"\0" + version.encode() + b"\0")
        return digest.hexdigest()


def appearance(pictures: Pictures) -> tuple[int, bool]:
    """Return the median short side of some pictures, in pixels, and whether any of them has colours."""
    sides, coloured = [0], False
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for place in range(0, len(pictures), max(1, len(pictures) // _LOOKED_AT)):
            try:
                with pictures.open(place) as picture:
                    sides.append(min(picture.size))
                    picture.draft(None, (_THUMBNAIL, _THUMBNAIL))
                    red, green, blue = fit(picture, _THUMBNAIL, 3).int()
            except BROKEN:
                continue
            difference = torch.maximum((red - green).abs(), (green - blue).abs())
            coloured = coloured or bool(difference.float().mean() > _COLOURED)
    return sorted(sides)[len(sides) // 2], coloured


def decoded(pictures: Pictures, image_size: int, channels: int) -> tuple[Tensor, dict[int, str]]:
    """Decode pictures into memory.

    Returns:
        The images that can be read, (N, channels, image_size, image_size) uint8, and the reason for every other one, by
        position.
    """
    images, notes, count = torch.empty(len(pictures), channels, image_size, image_size, dtype=torch.uint8), Notes(), 0
    for part in _parts(pictures, image_size, channels, notes):
        images[count : count + len(part)] = part
        count += len(part)
    return images[:count], _by_position(notes)


def decoded_on_disk(pictures: Pictures, image_size: int, channels: int, folder: Path) -> tuple[Tensor, dict[int, str]]:
    """Decode pictures into a file below a folder, or find them there; see :func:`decoded`."""
    shape: Shape = (channels, image_size, image_size)
    address = f"{SCHEMA} {PIL.__version__} {shape} {pictures.identity()}"
    path = folder / (hashlib.sha256(address.encode()).hexdigest()[:32] + SUFFIX)

    def produce(notes: Notes) -> Iterator[Tensor]:
        require_room(folder, len(pictures) * channels * image_size**2)
        return _parts(pictures, image_size, channels, notes)

    images, notes = stored(path, shape, produce)
    return images, _by_position(notes)


def _by_position(notes: Notes) -> dict[int, str]:
    return {int(place): reason for place, reason in notes.items()}


def _parts(pictures: Pictures, image_size: int, channels: int, notes: Notes) -> Iterator[Tensor]:
    """Yield the pixels of the pictures that can be read, in order, and note the reasons for the others."""

    def pixels(place: int) -> Tensor | str:
        try:
            return _pixels(pictures.open(place), image_size, channels)
        except BROKEN as error:
            return _reason(error)

    workers = usable_cores()
    step = max(workers, min(256, _AT_ONCE // (channels * image_size**2)))
    bar = Progress(console=progress_console(), disable=len(pictures) < LONG)
    with bar, ThreadPoolExecutor(workers) as pool:  # Pillow lets other threads run while it decodes
        task = bar.add_task(f"decoding {len(pictures)} images", total=len(pictures))
        for start in range(0, len(pictures), step):
            places = range(start, min(start + step, len(pictures)))
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                results = list(pool.map(pixels, places))
            notes |= {str(place): found for place, found in zip(places, results, strict=True) if isinstance(found, str)}
            whole = [found for found in results if isinstance(found, Tensor)]
            if whole:
                yield torch.stack(whole)
            bar.advance(task, len(places))


def _pixels(picture: Image.Image, image_size: int, channels: int) -> Tensor:
    with picture:
        # JPEGs decode faster at 1/2, 1/4 or 1/8 of their size; twice the image size leaves room to filter.
        picture.draft(None, (2 * image_size, 2 * image_size))
        return fit(ImageOps.exif_transpose(picture), image_size, channels)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.partition("\n")[0] or type(error).__name__
