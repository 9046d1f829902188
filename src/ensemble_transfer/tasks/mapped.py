"""Images on disk that are used like tensors: ``.npy`` files, mapped into memory.

A file holds (N, C, H, W) uint8. Beside it lies a JSON file with notes and a SHA-256 over both, written last. The
operating system reads the pages that are used, and drops them when memory is short. Such a tensor is never written to:
its file is shared by all members, runs and jobs. It may be deleted when none of them runs.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import lock_of, replacing
from ensemble_transfer.tasks.chosen import ChosenImages, parts

Notes = dict[int, str]
"""Remarks about what the images were made from, by its position."""

Shape = tuple[int, int, int]
"""Shape of one image: channels, height, width."""

SUFFIX = ".npy"
CHUNK = 2**26
"""Bytes that are processed at once."""

_whole: dict[Path, tuple[object, ...]] = {}
"""Files whose checksum this process has verified, as they were then: a task is loaded once for each job of a sweep."""

log = logging.getLogger(__name__)


def stored(path: Path, shape: Shape, produce: Callable[[Notes], Iterable[Tensor]]) -> tuple[Tensor, Notes]:
    """Return the images of a file and its notes; the file is made first if it is missing or damaged.

    Args:
        path: The file; its name is a hash of everything that decides its content.
        shape: Shape of one image.
        produce: Yields the images in chunks (N, C, H, W), and fills in the notes.
    """
    try:
        found = _opened(path)
        if found is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock_of(path.with_name(f"{path.name}.lock")):
                found = _opened(path)  # by another job, meanwhile
                if found is None:
                    _write(path, shape, produce)
                    found = _opened(path)
    except OSError as error:
        rule = f"must be a folder that can be written: {error.strerror or error}"
        raise SettingError("cache", str(path.parent), rule) from error
    assert found is not None, f"{path} is being changed by something else"
    return found


def chunks(images: Tensor) -> Iterator[Tensor]:
    """Yield a tensor in parts of bounded size."""
    for part in parts(images, max(1, CHUNK // max(1, images[:1].numel() * images.element_size()))):
        yield part.read() if isinstance(part, ChosenImages) else part


@dataclass(frozen=True, eq=False)
class Place:
    """Where images are mapped from: what another process needs to map them too.

    Attributes:
        file: The file, of bytes.
        offset: Place of the first image in it.
        shape: Shape of the images from there on.
        index: Positions of the chosen ones among them; None for all.
    """

    file: Path
    offset: int
    shape: tuple[int, ...]
    index: Tensor | None = None

    def open(self) -> Tensor:
        """Return the images.

        The mapping is shared where the file may be written, as torch wants it. A private one counts as memory that may
        be needed, and is refused where it exceeds the machine's.
        """
        shared = os.access(self.file, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        end = self.offset + torch.Size(self.shape).numel()
        mapped = torch.from_file(str(self.file), shared=shared, size=end, dtype=torch.uint8)
        images = mapped[self.offset :].view(self.shape)
        return images if self.index is None else ChosenImages(images, self.index)  # type: ignore[return-value]


def place_of(images: Tensor) -> Place | None:
    """Return where images are mapped from; None if they are in memory."""
    whole, index = (images.images, images.index) if isinstance(images, ChosenImages) else (images, None)
    name = whole.untyped_storage().filename if whole.is_contiguous() else None
    return Place(Path(name), int(whole.storage_offset()), tuple(whole.shape), index) if name else None


def remembered(images: Tensor, labels: Tensor, compute: Callable[[], str]) -> str:
    """Return the fingerprint of images with labels, computed from all pixels; that of mapped images is kept.

    It lies beside their file, under a hash of the file's checksum, which this process has verified, and of what was
    chosen. A line has a check of its own: half of one, or a damaged one, is not taken for it.
    """
    place = place_of(images)
    if place is None or place.file not in _whole:
        return compute()
    digest = hashlib.sha256(repr((_whole[place.file][-1], place.offset, place.shape)).encode())
    for tensor in (labels, *([] if place.index is None else [place.index])):
        digest.update(f"{len(tensor)} ".encode() + tensor.numpy().tobytes())
    key, beside = digest.hexdigest(), place.file.with_suffix(".fingerprints")
    lines = beside.read_text(encoding="utf-8", errors="replace").splitlines() if beside.is_file() else []
    for fingerprint in (line.split(" ")[1] for line in lines if line.startswith(f"{key} ")):
        if _line(key, fingerprint) in lines:
            return fingerprint
    fingerprint = compute()
    with suppress(OSError), beside.open("a", encoding="utf-8") as file:  # a cache of somebody else
        file.write(f"\n{_line(key, fingerprint)}\n")  # what stands before may be half a line
    return fingerprint


def _line(key: str, fingerprint: str) -> str:
    return f"{key} {fingerprint} {hashlib.sha256(f'{key} {fingerprint}'.encode()).hexdigest()[:16]}"


def _opened(path: Path) -> tuple[Tensor, Notes] | None:
    """Return a file's images and notes; None if it is missing or not what was written."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    try:
        text = beside.read_text(encoding="utf-8")
        notes = {int(place): note for place, note in json.loads(text)["notes"].items()}
        stat = path.stat()
        state = stat.st_ino, stat.st_size, stat.st_mtime_ns, text
        if _whole.get(path) != state and text != _about(path, notes):
            raise ValueError("the checksum does not match")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        log.warning("%s is damaged; it is made again", path)
        return None
    _whole[path] = state
    there = npy.open_memmap(path, mode="r")
    return Place(path, there.offset, there.shape).open(), notes


def _about(path: Path, notes: Notes) -> str:
    """Return the text that belongs beside a file with these notes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(notes, sort_keys=True).encode())
    return json.dumps({"notes": notes, "sha256": digest.hexdigest()}, sort_keys=True)


def _write(path: Path, shape: Shape, produce: Callable[[Notes], Iterable[Tensor]]) -> None:
    notes: Notes = {}
    header = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False}
    with replacing(path) as partial:
        with partial.open("w+b") as file:
            count = 0
            npy.write_array_header_1_0(file, header | {"shape": (count, *shape)})
            for part in produce(notes):
                file.write(part.contiguous().numpy().data)
                count += len(part)
            file.seek(0)  # the header stays as long: NumPy leaves room for the first axis to grow
            npy.write_array_header_1_0(file, header | {"shape": (count, *shape)})
        about = _about(partial, notes)
    with replacing(path.with_suffix(".json")) as beside:
        beside.write_text(about, encoding="utf-8")
