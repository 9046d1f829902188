"""Decode pictures, once, into memory or onto disk."""

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import Progress
from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.machine import progress_console, usable_cores
from ensemble_transfer.tasks.images import fit
from ensemble_transfer.tasks.inputs import state_of
from ensemble_transfer.tasks.mapped import SUFFIX, Notes, Shape, stored

T = TypeVar("T")

SCHEMA = 1
"""Version of the decoding; raised whenever the same picture would give other pixels."""

BROKEN = (
    OSError,  # truncated, unreadable, dangling link
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

PROGRESS_FROM = 2000
"""Number of pictures from which on a progress bar is shown."""

_AT_ONCE = 2**25
"""Bytes of pixels that are decoded at once."""

_LOOKED_AT = 8
"""Pictures that are opened to find out what they look like."""
_THUMBNAIL = 32
_COLOURED = 4
"""Mean difference between the channels, of 255, above which a picture has colours; scans of paper have a tint."""


@dataclass(frozen=True, repr=False)
class Pictures:
    """Encoded pictures in a fixed order.

    Attributes:
        names: Their names in messages.
        open: Opens the picture at a place; raises one of :data:`BROKEN` where that is impossible.
        identity: Returns a text that changes with the content: while it stays the same, nothing is decoded again.
    """

    names: Sequence[str]
    open: Callable[[int], Image.Image]
    identity: Callable[[], str]


def files(paths: Sequence[Path], names: Sequence[str] | None = None) -> Pictures:
    """Return image files as pictures, named by their paths or otherwise; a file is known by size, place and times."""

    def opened(place: int) -> Image.Image:
        if not paths[place].is_file():  # nor a pipe, which would never end
            raise OSError("does not exist")
        return Image.open(paths[place])

    return Pictures(names or [str(path) for path in paths], opened, lambda: state_of(paths))


def appearance(pictures: Pictures) -> tuple[int, bool, int]:
    """Return of some pictures the median short side, in pixels, whether any has colours, and the highest value."""
    sides, coloured, highest = [0], False, 0
    with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
        for place in range(0, len(pictures.names), max(1, len(pictures.names) // _LOOKED_AT)):
            with suppress(*BROKEN), pictures.open(place) as picture:
                sides.append(min(picture.size))
                picture.draft(None, (_THUMBNAIL, _THUMBNAIL))
                red, green, blue = small = fit(picture, _THUMBNAIL, 3).int()
                highest = max(highest, int(small.max()))
                difference = torch.maximum((red - green).abs(), (green - blue).abs())
                coloured = coloured or bool(difference.float().mean() > _COLOURED)
    return sorted(sides)[len(sides) // 2], coloured, highest


def decoded(pictures: Pictures, image_size: int, channels: int) -> tuple[Tensor, Notes]:
    """Decode pictures into memory.

    Returns:
        The images that can be read, (N, channels, image_size, image_size) uint8, and the reason for every other one, by
        position.
    """
    size, notes, count = len(pictures.names), Notes(), 0
    images = torch.empty(size, channels, image_size, image_size, dtype=torch.uint8)
    for part in decoded_parts(pictures, image_size, channels, notes):
        images[count : count + len(part)] = part
        count += len(part)
    return images[:count], notes


def decoded_on_disk(pictures: Pictures, image_size: int, channels: int, folder: Path) -> tuple[Tensor, Notes]:
    """Decode pictures into a file below a folder, or find them there; see :func:`decoded`."""
    shape: Shape = (channels, image_size, image_size)
    address = f"{SCHEMA} {PIL.__version__} {shape} {pictures.identity()}"
    path = folder / (hashlib.sha256(address.encode()).hexdigest()[:32] + SUFFIX)

    def produce(notes: Notes) -> Iterator[Tensor]:
        needed, free = len(pictures.names) * channels * image_size**2, shutil.disk_usage(folder).free
        rule = f"needs {needed / 2**30:.1f} GiB for the decoded images, and {free / 2**30:.1f} GiB are free"
        require(needed < free, "cache", str(folder), rule)
        return decoded_parts(pictures, image_size, channels, notes)

    return stored(path, shape, produce)


def decoded_parts(pictures: Pictures, image_size: int, channels: int, notes: Notes) -> Iterator[Tensor]:
    """Yield the pixels of the pictures that can be read, in order, and note the reasons for the others."""

    def pixels(place: int) -> Tensor | str:
        try:
            return _pixels(pictures.open(place), image_size, channels)
        except BROKEN as error:
            return _reason(error)

    workers, size = usable_cores(), len(pictures.names)
    step = max(workers, min(256, _AT_ONCE // (channels * image_size**2)))
    bar = Progress(console=progress_console(), disable=size < PROGRESS_FROM)
    with bar, ThreadPoolExecutor(workers) as pool:  # Pillow lets other threads run while it decodes
        task = bar.add_task(f"decoding {size} images", total=size)
        for start in range(0, size, step):
            places = range(start, min(start + step, size))
            with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
                results = list(pool.map(pixels, places))
            notes |= {place: found for place, found in zip(places, results, strict=True) if isinstance(found, str)}
            whole = [found for found in results if isinstance(found, Tensor)]
            if whole:
                yield torch.stack(whole)
            bar.advance(task, len(places))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items in their order; a thread makes the next two while one is used.

    The thread is a daemon, since what makes the items may wait for ever for a line of standard input.
    """
    made, room, ended = SimpleQueue[T | Exception | None](), Semaphore(), Event()

    def make() -> None:
        try:
            for item in items:
                made.put(item)
                room.acquire()
                if ended.is_set():
                    return
            made.put(None)
        except Exception as error:  # noqa: BLE001  # raised where the items are used
            made.put(error)

    Thread(target=make, daemon=True).start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, Exception):
                raise item
            room.release()
            yield item
    finally:
        ended.set()
        room.release()


def _pixels(picture: Image.Image, image_size: int, channels: int) -> Tensor:
    with picture:
        # JPEGs decode faster at 1/2, 1/4 or 1/8 of their size; twice the image size leaves room to filter.
        picture.draft(None, (2 * image_size, 2 * image_size))
        picture.getexif()  # is kept then; to write it anew, as the next line would, fails where a tag has an odd type
        for name in ("exif", "Raw profile type exif"):
            picture.info.pop(name, None)
        return fit(ImageOps.exif_transpose(picture), image_size, channels)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.partition("\n")[0] or type(error).__name__
