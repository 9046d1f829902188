"""Fashion-MNIST, from the IDX files of MNIST and its relatives."""

import gzip
import math
import zlib
from dataclasses import dataclass
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
class FashionMnist(TaskLoader):
    """Fashion-MNIST, 70,000 garments in 10 classes, 28x28, from Debian's package or a folder with its files.

    The files may be gzipped. Official training and test images stay apart; validation images are carved from the
    training images.

    Args:
        path: The folder.
    """

    path: str = "/usr/share/datasets/fashion-mnist"

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        folder = existing_folder(self.path, FASHION_HINT)
        train, test = (
            Split(read_idx(folder, f"{part}-images-idx3-ubyte", 3), read_idx(folder, f"{part}-labels-idx1-ubyte", 1))
            for part in ("train", "t10k")
        )
        return self.make_task("fashion", Collection(FASHION, train, test=test), image_size, channels)


def read_idx(folder: Path, name: str, rank: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or plain, as images (N, 1, H, W) uint8 or labels (N,) int64.

    Raises:
        SettingError: The file is missing, is not IDX with 3 or 1 dimensions (the rank), or is cut short or too long.
    """
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), folder / name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SettingError("path", str(folder), f"its {path.name} cannot be read ({error})") from error
    start = 4 + 4 * rank
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    whole = content[:4] == bytes((0, 0, UNSIGNED_BYTE, rank)) and 0 < len(content) - start == math.prod(shape)
    rule = f"is not a whole IDX file of unsigned bytes in {rank} dimensions"
    require(whole, "path", str(folder), f"its {path.name} {rule}")
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)
    return values[:, None] if rank == 3 else values.long()
