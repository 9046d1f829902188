"""One ``.npz`` file of images and labels."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.tasks.source import Collection, Source
from ensemble_transfer.tasks.task import Split, Task

Array = NDArray[Any]

PREFIXES = {"train": ("", "train_"), "validation": ("validation_", "val_"), "test": ("test_",)}
"""What may stand before ``images`` and ``labels`` (``val_`` as in MedMNIST)."""


@dataclass(frozen=True)
class Npz(Source):
    """A NumPy archive of ``images`` and ``labels``, or ``train_images``, ``train_labels``, ``test_images``...

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, uint8 or floats in [0, 1]. With
    ``classes`` (names) in the file, labels are positions in it; without, every different label (number or
    text) is a class, in sorted order. Nothing in the file is unpickled.

    Args:
        path: The file.
    """

    path: str

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.TaskSource`."""
        try:
            data = _collection(_read(Path(self.path).expanduser()))
        except ValueError as error:
            raise SettingError("path", self.path, str(error)) from error
        return self._make_task(Path(self.path).stem, data, image_size, channels)


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise ValueError("must be an .npz file that exists")
    if not zipfile.is_zipfile(path):
        raise ValueError("is not a whole .npz file")
    wanted = {before + what for each in PREFIXES.values() for before in each for what in ("images", "labels")}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in wanted | {"classes"}}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot be read ({error})") from error


def _collection(arrays: Mapping[str, Array]) -> Collection:
    pairs = {split: _pair(arrays, split) for split in PREFIXES}
    train = pairs["train"]
    if train is None:
        raise ValueError(f"must hold images and labels, or train_images and train_labels, not {sorted(arrays)}")
    names = arrays["classes"] if "classes" in arrays else np.unique(train[1])
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise ValueError(f"its classes must be a list of names, not {names.dtype} {names.shape}")
    known = np.arange(len(names)) if "classes" in arrays else names
    splits = {split: Split(pair[0], _positions(known, pair[1])) for split, pair in pairs.items() if pair}
    return Collection(tuple(map(str, names)), **splits)


def _pair(arrays: Mapping[str, Array], split: str) -> tuple[Tensor, Array] | None:
    for before in PREFIXES[split]:
        keys = (f"{before}images", f"{before}labels")
        present = [key for key in keys if key in arrays]
        if len(present) == 1:
            raise ValueError(f"holds {present[0]} without {', '.join(set(keys) - set(present))}")
        if present:
            return _checked_pair(*keys, arrays)
    return None


def _checked_pair(images_key: str, labels_key: str, arrays: Mapping[str, Array]) -> tuple[Tensor, Array]:
    images, labels = _images(images_key, arrays[images_key]), arrays[labels_key]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),):
        raise ValueError(f"its {labels_key} must be one for each of {len(images)} images, not {labels.shape}")
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"its {labels_key} must be integers or text, not {labels.dtype}")
    return images, labels


def _images(key: str, array: Array) -> Tensor:
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.size == 0 or not {1, 3} & {array.shape[1], array.shape[-1]}:
        raise ValueError(f"its {key} must be (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, not {array.shape}")
    if array.shape[-1] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(_bytes(key, array)))


def _bytes(key: str, array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"its {key} must be uint8 or floats in [0, 1], not {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 1:  # NaN fails too
        raise ValueError(f"its {key} must be floats in [0, 1], not from {low:g} to {high:g}")
    scaled: Array = np.rint(array * 255).astype(np.uint8)
    return scaled


def _positions(known: Array, labels: Array) -> Tensor:
    unknown = np.setdiff1d(labels, known)
    if unknown.size:
        raise ValueError(f"has the label {unknown[0]}, which is not one of its {len(known)} classes")
    return torch.from_numpy(np.searchsorted(known, labels).astype(np.int64))
