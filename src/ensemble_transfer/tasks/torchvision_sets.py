"""Tasks from the data sets of torchvision, which downloads them."""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from ensemble_transfer.errors import require
from ensemble_transfer.machine import answers
from ensemble_transfer.tasks.images import fit, require_shape
from ensemble_transfer.tasks.loader import Collection, HintedError, TaskLoader
from ensemble_transfer.tasks.task import Split, Task

Arguments = Mapping[str, object]

Pictures = Any
"""A data set of torchvision: it has a length, and pairs of a Pillow image and a label."""

BY_FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: Mapping[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
BY_THREE: Mapping[str, Arguments] = {**BY_NAME, "validation": {"split": "val"}}
LETTERS: Mapping[str, Arguments] = {key: {**flag, "split": "letters"} for key, flag in BY_FLAG.items()}

DATASETS: Mapping[str, Mapping[str, Arguments]] = {
    "CIFAR10": BY_FLAG,
    "CIFAR100": BY_FLAG,
    "DTD": BY_THREE,
    "EMNIST": LETTERS,
    "EuroSAT": {"train": {}},
    "FGVCAircraft": BY_THREE,
    "FashionMNIST": BY_FLAG,
    "Flowers102": BY_THREE,
    "GTSRB": BY_NAME,
    "KMNIST": BY_FLAG,
    "MNIST": BY_FLAG,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "STL10": BY_NAME,
    "SVHN": BY_NAME,
    "USPS": BY_FLAG,
}
"""Arguments of torchvision's constructors for the splits of each data set."""

PATIENCE = 20.0
"""Seconds without an answer after which a download fails; by default it would wait for minutes."""


@dataclass(frozen=True)
class TorchvisionDataset(TaskLoader):
    """A data set of ``torchvision.datasets``, with its official splits.

    Args:
        name: Name of torchvision's class; EMNIST gives its letters.
        root: Folder of the data and of the download.
        download: Whether to download missing data.

    Raises:
        SettingError: The name is not one of :data:`DATASETS`.
    """

    name: str
    root: str = "data"
    download: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.name in DATASETS, "name", self.name, f"must be one of {', '.join(DATASETS)}")

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        require_shape(image_size, channels)
        try:
            data = self._read(image_size, channels)
        except Exception as error:  # the readers of its formats raise anything, such as UnpicklingError
            raise HintedError("root", self.root, self._complaint(error)) from error
        return self.make_task(self.name.lower(), data, image_size, channels)

    def _read(self, image_size: int, channels: int) -> Collection:
        from torchvision import datasets

        constructor = getattr(datasets, self.name)
        folder = str(Path(self.root).expanduser())
        if self.download:
            self._download(constructor, folder)
        parts = {split: constructor(folder, **arguments) for split, arguments in DATASETS[self.name].items()}
        splits = {split: _decode(part, image_size, channels) for split, part in parts.items()}
        if self.name == "EMNIST":
            # Its files hold transposed images, and labels that count from 1.
            splits = {key: Split(split.images.mT.contiguous(), split.labels - 1) for key, split in splits.items()}
        return Collection(_class_names(parts["train"], splits["train"]), **splits)

    def _download(self, constructor: Callable[..., Pictures], folder: str) -> None:
        """Download missing data, if one of the data set's servers answers."""
        for arguments in DATASETS[self.name].values():
            try:
                constructor(folder, **arguments)
            except Exception:  # noqa: BLE001  # as above
                servers = _servers(constructor)
                if servers and not answers(*servers):
                    raise OSError(f"no answer from {', '.join(servers)}") from None
                with _patience():
                    constructor(folder, download=True, **arguments)

    def _complaint(self, error: Exception) -> str:
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
        if not isinstance(error, OSError | RuntimeError | AssertionError):
            return f"{self.name} cannot be read ({reason})"
        if self.download:
            return f"{self.name} is not there and could not be downloaded ({reason})"
        hint = "set {group}download=true, or {group}root to the folder that holds it"
        return f"{self.name} is not there ({reason}); {hint}"


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _servers(constructor: Callable[..., Pictures]) -> list[str]:
    """Return the servers that a data set's class names; for some classes there are none."""
    return sorted(set(re.findall(r"https?://[\w.-]+/", repr(vars(constructor)))))


def _decode(dataset: Pictures, image_size: int, channels: int) -> Split:
    images = torch.zeros(len(dataset), channels, image_size, image_size, dtype=torch.uint8)
    labels = torch.zeros(len(dataset), dtype=torch.int64)
    for place in range(len(dataset)):
        image, label = dataset[place]
        images[place], labels[place] = fit(image, image_size, channels), int(label)
    return Split(images, labels)


def _class_names(dataset: Pictures, train: Split) -> tuple[str, ...]:
    names = [name for name in getattr(dataset, "classes", None) or [] if name != "N/A"]
    return tuple(names or map(str, range(int(train.labels.max()) + 1)))
