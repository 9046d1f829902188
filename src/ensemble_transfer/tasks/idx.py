"""Tasks from the IDX files of MNIST and its relatives."""

import gzip
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.loader import Collection, TaskLoader, existing_folder
from ensemble_transfer.tasks.task import Split, Task

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_HINT = (
    "must be a folder with the IDX files of Fashion-MNIST; Debian's package dataset-fashion-mnist provides "
    "/usr/share/datasets/fashion-mnist; install that, or set path to your own copy"
)
UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class IdxFolder(TaskLoader):
    """A folder with the four files of MNIST: ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, ...

    The files may be gzipped (``.gz``). Official training and test images stay apart; validation images are
    carved from the training images.

    Args:
        path: The folder.
        class_names: Names of the classes, in the order of the labels. Empty: 0, 1, 2, ...
    """

    path: str
    class_names: list[str] = field(default_factory=list)

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        folder = existing_folder(self.path, "must be a folder with IDX files")
        data = read_idx_folder(folder, tuple(self.class_names))
        return self.make_task(folder.name, data, image_size, channels)


@dataclass(frozen=True)
class FashionMnist(TaskLoader):
    """Fashion-MNIST, 70,000 garments in 10 classes, 28x28, from Debian's package or a folder with its files.

    Args:
        path: The folder.
    """

    path: str = "/usr/share/datasets/fashion-mnist"

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        data = read_idx_folder(existing_folder(self.path, FASHION_HINT), FASHION)
        return self.make_task("fashion", data, image_size, channels)


def read_idx_folder(folder: Path, classes: tuple[str, ...] = ()) -> Collection:
    """Read the four files of an MNIST-like folder.

    Raises:
        SettingError: A file is missing or broken, or its labels do not fit the images or the classes.
    """
    train, test = (_split(folder, part) for part in ("train", "t10k"))
    top = int(torch.cat([train.labels, test.labels]).max())
    names = classes or tuple(map(str, range(top + 1)))
    require(top < len(names), "class_names", list(names), f"must name the label {top} of {folder} too")
    return Collection(names, train, test=test)


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or plain, as a uint8 tensor of the shape in its header.

    Raises:
        ValueError: The file is not IDX, is cut short or too long, or holds another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot be read ({error})") from error
    rank = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * rank
    if content[:3] != bytes((0, 0, UNSIGNED_BYTE)) or len(content) < start:
        raise ValueError("is not an IDX file of unsigned bytes")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise ValueError(f"holds {len(content) - start} bytes where its header says {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)


def _split(folder: Path, part: str) -> Split:
    images = _read(folder, f"{part}-images-idx3-ubyte", rank=3)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", rank=1)
    if len(images) != len(labels):
        raise SettingError("path", str(folder), f"has {len(images)} {part} images but {len(labels)} labels")
    return Split(images[:, None], labels.long())


def _read(folder: Path, name: str, rank: int) -> Tensor:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    require(bool(found), "path", str(folder), f"has no file {name} or {name}.gz")
    try:
        content = read_idx(found[0])
    except ValueError as error:
        raise SettingError("path", str(folder), f"its {found[0].name} {error}") from error
    fits = content.ndim == rank and content.numel() > 0
    require(fits, "path", str(folder), f"its {found[0].name} must have {rank} dimensions, none of them 0")
    return content
