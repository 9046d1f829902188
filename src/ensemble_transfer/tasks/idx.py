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

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
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
    splits = {}
    for part in ("train", "t10k"):
        images, labels = (
            read_idx(folder, f"{part}-images-idx3-ubyte", 3),
            read_idx(folder, f"{part}-labels-idx1-ubyte", 1),
        )
        fits = len(images) == len(labels)
        require(fits, "path", str(folder), f"has {len(images)} {part} images but {len(labels)} labels")
        splits[part] = Split(images[:, None], labels.long())
    top = int(torch.cat([split.labels for split in splits.values()]).max())
    names = classes or tuple(map(str, range(top + 1)))
    require(top < len(names), "class_names", list(names), f"must name the label {top} of {folder} too")
    return Collection(names, splits["train"], test=splits["t10k"])


def read_idx(folder: Path, name: str, rank: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or plain, as a uint8 tensor of the shape in its header.

    Args:
        folder: Folder of the file.
        name: Name of the file, without ``.gz``.
        rank: Number of its dimensions.

    Raises:
        SettingError: The file is missing, is not IDX, is cut short or too long, or holds another type.
    """
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise SettingError("path", str(folder), f"has no file {name} or {name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SettingError("path", str(folder), f"its {path.name} cannot be read ({error})") from error
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    fits = content[:4] == bytes((0, 0, UNSIGNED_BYTE, rank)) and len(content) >= start and 0 not in shape
    rule = f"is not an IDX file of unsigned bytes in {rank} dimensions, none of them 0"
    require(fits, "path", str(folder), f"its {path.name} {rule}")
    held = len(content) - start
    whole = held == math.prod(shape)
    require(whole, "path", str(folder), f"its {path.name} holds {held} bytes where its header says {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)
