"""Large tensors: in memory where they fit, else in a temporary file that is mapped into memory.

The operating system writes the pages of such a file and drops them when memory is short. The file has no name, so that
nothing is left of it however the process ends.
"""

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ensemble_transfer.machine import free_memory

MEMORY_SHARE = 0.5
"""Share of the free memory that a tensor may take before it goes to a file."""

SMALL = 2**24
"""Bytes that are always taken from memory."""


def empty(*shape: int, dtype: torch.dtype = torch.float32, free: int | None = None) -> Tensor:
    """Return a tensor of this shape whose values are to be written, on the CPU.

    Args:
        shape: Its shape.
        dtype: Its type, one that NumPy has.
        free: Bytes of memory that are free for it; None to ask the system.

    Raises:
        MemoryError: If it fits neither into memory nor on the disk of the temporary files.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= SMALL or size <= MEMORY_SHARE * (free_memory() if free is None else free):
        return torch.empty(*shape, dtype=dtype)
    places = [Path(name) for name in (tempfile.gettempdir(), "/var/tmp") if os.access(name, os.W_OK)]
    folder = max(places, key=lambda place: shutil.disk_usage(place).free)  # TMPDIR or /var/tmp: /tmp may be memory
    room = shutil.disk_usage(folder).free
    if size > room:
        needed, there = (f"{number / 2**30:.1f} GiB" for number in (size, room))
        raise MemoryError(f"{needed} do not fit into memory, and {folder} has {there}; set TMPDIR to a larger disk")
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), size)
        return torch.from_numpy(np.memmap(file, mode="r+", shape=(size,), dtype=np.uint8)).view(dtype).view(shape)


def rows_at_once(row_bytes: int) -> int:
    """Return how many rows of so many bytes a computation takes at once, so that its copies stay small."""
    return max(1, 2**26 // max(1, row_bytes))


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size and its place on the disk: a disk that is full later would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
