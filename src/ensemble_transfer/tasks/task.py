"""A task: labelled images for training, validation and test."""

import hashlib
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, Protocol, cast

import torch
from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.chosen import ChosenImages
from ensemble_transfer.tasks.images import scaled
from ensemble_transfer.tasks.mapped import chunks, remembered


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels.

    Args:
        images: (N, C, H, W) uint8, N at least 1; on disk :class:`~ensemble_transfer.tasks.chosen.ChosenImages`,
            of which an index reads some, and ``to("cpu")`` all.
        labels: (N,) int64, none negative.

    Raises:
        SettingError: A tensor has another type or shape, or a label is negative.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        fits = images.dtype == torch.uint8 and images.ndim == 4 and images.numel() > 0
        require(fits, "images", _summary(images), "must be uint8 of shape (N, C, H, W), not empty")
        fits = labels.dtype == torch.int64 and labels.shape == images.shape[:1]
        require(fits, "labels", _summary(labels), f"must be int64 of shape ({len(images)},), one an image")
        require(int(labels.min()) >= 0, "labels", int(labels.min()), "must not be negative")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of {'x'.join(map(str, self.images.shape[1:]))})"

    def take(self, index: Tensor) -> "Split":
        """Return the examples at these positions, (K,) int64, in that order; images on disk are not read for it."""
        of = self.images
        images = cast(Tensor, ChosenImages(of, index)) if isinstance(of, ChosenImages) else of[index]
        return Split(images, self.labels[index])

    def at(self, size: int) -> "Split":
        """Return the same examples with images scaled down to a size in pixels; they are computed once.

        They are a split like any other, with a fingerprint of its own.
        """
        if self.images.shape[-1] == size:
            return self
        if size not in self._smaller:
            images, start = empty(len(self), self.images.shape[1], size, size, dtype=torch.uint8), 0
            for part in chunks(self.images):
                images[start : start + len(part)] = scaled(part, size)
                start += len(part)
            self._smaller[size] = Split(images, self.labels)
        return self._smaller[size]

    @cached_property
    def _smaller(self) -> dict[int, "Split"]:
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shapes, types and contents, 64 hexadecimal digits."""
        tensors = self.images, self.labels
        return remembered(*tensors, lambda: _digest(part for tensor in tensors for part in _parts(tensor)))


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A classification task.

    Args:
        name: Name in reports.
        classes: Names of the classes, in the order of the labels; at least two.
        train: Images to train on.
        validation: Images to select on: scale, temperature, early stopping.
        test: Images to report on.
        origin: Fingerprint of all images that the three splits were drawn from; empty if there are none but these.

    Raises:
        SettingError: Classes repeat or are too few, the splits differ in (C, H, W), or a label has no class.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    origin: str = ""

    def __post_init__(self) -> None:
        distinct = len(set(self.classes)) == len(self.classes) >= 2
        require(distinct, "classes", self.classes, "must be two or more different names")
        for setting, name in (("name", self.name), *(("classes", name) for name in self.classes)):
            text = name == name.encode(errors="ignore").decode()  # names of files on disk may be any bytes
            require(
                text,
                setting,
                name,
                "must be text that UTF-8 can hold: files of a run name it; if it is, set PYTHONUTF8=1",
            )
        wanted = tuple(self.train.images.shape[1:])
        for name, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            shape = tuple(split.images.shape[1:])
            require(shape == wanted, name, shape, f"must have the shape of the training images, {wanted}")
            top = int(split.labels.max())
            require(top < len(self.classes), name, top, f"is a label beyond the {len(self.classes)} classes")

    def __repr__(self) -> str:
        splits = f"train={self.train}, validation={self.validation}, test={self.test}"
        return f"Task({self.name!r}, {len(self.classes)} classes, {splits})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class names and the three splits; the task's own name does not count."""
        splits = (self.train, self.validation, self.test)
        return _digest([repr(self.classes).encode(), *(split.fingerprint.encode() for split in splits)])

    def at(self, size: int) -> "Task":
        """Return the same task, of the same fingerprint, with training and validation images scaled down to a size.

        Its test split is sealed: ensembles are tested on the images that the task has, and scale them themselves.
        """
        smaller = self.sealed()
        for name in ("train", "validation"):
            object.__setattr__(smaller, name, getattr(self, name).at(size))
        return smaller

    def sealed(self) -> "Task":
        """Return the same task with a test split that raises an error at every use, for training and selection."""
        clone = copy(self)
        clone.__dict__["fingerprint"] = self.fingerprint
        object.__setattr__(clone, "test", _SealedSplit())
        return clone


class _SealedSplit:
    """Takes the place of a test split that must not be read."""

    def __repr__(self) -> str:
        return "sealed"

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"test.{name} was read while training or selecting: the test split is for the final report")

    def __len__(self) -> NoReturn:
        self.__getattr__("__len__")


class Loader(Protocol):
    """Anything that loads a task; :class:`~ensemble_transfer.tasks.loader.TaskLoader` is the base class for one."""

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task with images of (channels, image_size, image_size); channels are 1 (gray) or 3 (RGB).

        Raises:
            SettingError: A setting does not fit the data, or the data is missing or broken.
        """
        ...


def _summary(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _parts(tensor: Tensor) -> Iterator[bytes]:
    yield _summary(tensor).encode()
    for part in chunks(tensor):
        yield part.cpu().numpy().tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
