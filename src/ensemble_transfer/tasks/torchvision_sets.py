"""Tasks from the data sets of torchvision, which downloads them."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ensemble_transfer.errors import SettingError, one_line, require
from ensemble_transfer.tasks.images import fit
from ensemble_transfer.tasks.limits import require_shape
from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.task import Split, Task

Arguments = Mapping[str, object]

Pictures = Any
"""A data set of torchvision: it has a length, and pairs of a Pillow image and a label."""

BY_FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: Mapping[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
BY_THREE: Mapping[str, Arguments] = {**BY_NAME, "validation": {"split": "val"}}

DATASETS: Mapping[str, Mapping[str, Arguments]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), BY_FLAG),
    **dict.fromkeys(("GTSRB", "STL10", "SVHN"), BY_NAME),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102"), BY_THREE),
    "EMNIST": {key: {**flag, "split": "letters"} for key, flag in BY_FLAG.items()},
    "EuroSAT": {"train": {}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
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
        require(self.name in DATASETS, "name", self.name, f"must be one of {', '.join(sorted(DATASETS))}")

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        require_shape(image_size, channels)
        try:
            data = self._read(image_size, channels)
        except Exception as error:  # the readers of its formats raise anything, such as UnpicklingError
            reason = one_line(error)
            hint = f"cannot be read ({reason}); set download=true, or root to the folder that holds it"
            rule = f"can neither be read nor downloaded ({reason})" if self.download else hint
            raise SettingError("root", self.root, f"{self.name} {rule}") from error
        return self.make_task(self.name.lower(), data, image_size, channels)

    def _read(self, image_size: int, channels: int) -> Collection:
        from torchvision import datasets

        constructor, folder = getattr(datasets, self.name), str(Path(self.root).expanduser())
        with _patience():
            listed = DATASETS[self.name].items()
            parts = {split: constructor(folder, download=self.download, **arguments) for split, arguments in listed}
        splits = {split: _decode(part, image_size, channels) for split, part in parts.items()}
        if self.name == "EMNIST":
            # Its files hold transposed images, and labels that count from 1.
            splits = {key: Split(split.images.mT.contiguous(), split.labels - 1) for key, split in splits.items()}
        named = [name for name in getattr(parts["train"], "classes", None) or [] if name != "N/A"]
        names = named or map(str, range(int(splits["train"].labels.max()) + 1))
        return Collection(tuple(names), **splits)


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _decode(dataset: Pictures, image_size: int, channels: int) -> Split:
    images = torch.zeros(len(dataset), channels, image_size, image_size, dtype=torch.uint8)
    labels = torch.zeros(len(dataset), dtype=torch.int64)
    for place in range(len(dataset)):
        image, label = dataset[place]
        images[place], labels[place] = fit(image, image_size, channels), int(label)
    return Split(images, labels)
