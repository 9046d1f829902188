"""Tasks from an ``.npz`` file of images and labels."""

from dataclasses import dataclass
from pathlib import Path

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.metrics.archive import open_archive, read_array
from ensemble_transfer.tasks.arrays import Array, collection
from ensemble_transfer.tasks.limits import whence
from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.task import Task

PREFIXES = {"": "train", "train_": "train", "validation_": "validation", "val_": "validation", "test_": "test"}
"""Splits by what stands before ``images`` and ``labels`` (``val_`` as in MedMNIST)."""


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
        path = Path(self.path).expanduser()
        require(path.is_file(), "path", self.path, f"must be an .npz file that exists{whence(self.path)}")
        try:
            data = _read(path)
        except SettingError as error:
            raise SettingError("path", self.path, f"its {error.setting} {error.rule}, not {error.value}") from error
        except ValueError as error:
            raise SettingError("path", self.path, str(error)) from error
        return self.make_task(path.stem, data, image_size, channels)


def _read(path: Path) -> Collection:
    with open_archive(path) as archive:
        wanted = [f"{before}{what}" for before in PREFIXES for what in ("images", "labels")]
        arrays = {name: read_array(archive, name) for name in (*wanted, "classes") if name in archive.files}
    splits: dict[str, tuple[str, Array, Array]] = {}
    for before, split in PREFIXES.items():
        keys = {f"{before}images", f"{before}labels"}
        present = keys & arrays.keys()
        if len(present) == 1:
            raise ValueError(f"holds {present.pop()} without {keys.difference(arrays).pop()}")
        if present and split in splits:
            raise ValueError(f"holds {before}images beside {splits[split][0]}images, which are {split} images too")
        if present:
            splits[split] = before, arrays[f"{before}images"], arrays[f"{before}labels"]
    if "train" not in splits:
        raise ValueError(f"must hold images and labels, or train_images and train_labels, not {sorted(arrays)}")
    return collection(splits, arrays.get("classes"))
