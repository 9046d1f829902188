"""Images in files: pictures in folders, and IDX files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def write_pictures(folder: Path, images: Iterable, classes: Sequence[str] = (), kind: str = "png") -> list[Path]:
    """Write images (N, 1, H, W) or (N, H, W[, 3]) as 00.png, 01.png, ..., in a folder or in those of their classes."""
    paths = []
    for place, image in enumerate(images):
        paths.append(folder.joinpath(*classes[place : place + 1], f"{place:02}.{kind}"))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image).squeeze()).save(paths[-1])
    return paths


def idx(tensor: torch.Tensor) -> bytes:
    """Return the content of an IDX file of bytes."""
    head = bytes((0, 0, 8, tensor.ndim)) + b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return head + tensor.contiguous().to(torch.uint8).numpy().tobytes()
