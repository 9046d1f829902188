"""Tasks from an ``.npz`` file of images and labels."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.metrics.archive import read_array
from ensemble_transfer.tasks.arrays import Array, read_classes, read_images, read_labels
from ensemble_transfer.tasks.loader import Collection, TaskLoader, whence
from ensemble_transfer.tasks.task import Split, Task

PREFIXES = {"train": ("", "train_"), "validation": ("validation_", "val_"), "test": ("test_",)}
"""Prefixes of ``images`` and ``labels`` by split (``val_`` as in MedMNIST)."""


@dataclass(frozen=True)
class Npz(TaskLoader):
    """A NumPy archive of ``images`` and ``labels``, or ``train_images``, ``train_labels``, ``test_images``...

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, uint8 or floats in [0, 1]. If
    the file has ``classes`` (names), labels are positions in it or names from it; else every different label (number
    or text) is a class, in sorted order. Nothing in the file is unpickled.

    Args:
        path: The file.
    """

    path: str

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        try:
            data = _collection(_read(Path(self.path).expanduser()))
        except SettingError as error:
            raise SettingError("path", self.path, f"its {error.setting} {error.rule}, not {error.value}") from error
        except ValueError as error:
            raise SettingError("path", self.path, str(error)) from error
        return self.make_task(Path(self.path).stem, data, image_size, channels)


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise ValueError(f"must be an .npz file that exists{whence(str(path))}")
    if not zipfile.is_zipfile(path):
        raise ValueError("is not a whole .npz file")
    wanted = {before + what for each in PREFIXES.values() for before in each for what in ("images", "labels")}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: read_array(archive, key) for key in archive.files if key in wanted | {"classes"}}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot be read ({error})") from error


def _collection(arrays: Mapping[str, Array]) -> Collection:
    pairs = {split: _pair(arrays, split) for split in PREFIXES}
    train = pairs["train"]
    if train is None:
        raise ValueError(f"must hold images and labels, or train_images and train_labels, not {sorted(arrays)}")
    names, positions = read_classes(train[1], arrays.get("classes"))
    splits = {split: Split(pair[0], positions(pair[1])) for split, pair in pairs.items() if pair}
    return Collection(names, **splits)


def _pair(arrays: Mapping[str, Array], split: str) -> tuple[Tensor, Array] | None:
    for before in PREFIXES[split]:
        keys = (f"{before}images", f"{before}labels")
        present = [key for key in keys if key in arrays]
        if len(present) == 1:
            raise ValueError(f"holds {present[0]} without {', '.join(set(keys) - set(present))}")
        if present:
            images = read_images(keys[0], arrays[keys[0]])
            return images, read_labels(keys[1], arrays[keys[1]], len(images))
    return None
