"""The base class of everything that loads a task: it decides which images make up the task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.spill import empty
from ensemble_transfer.tasks.chosen import ChosenImages
from ensemble_transfer.tasks.images import resize, rotate, with_channels
from ensemble_transfer.tasks.inputs import digest_of, files_below, state_of
from ensemble_transfer.tasks.limits import require_shape, whence
from ensemble_transfer.tasks.mapped import chunks, place_of
from ensemble_transfer.tasks.splitting import Size, carve, class_positions, few_shot, in_fold, select_classes
from ensemble_transfer.tasks.task import Split, Task

HELD_OUT = {"test": 0.2, "validation": 0.15}
"""Fractions that are held out by default where the data set has no such split."""

SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "valid", "validation"), "validation")
SPLITS |= dict.fromkeys(("test", "testing"), "test")
"""Names of splits in folders and tables, and ours for them."""


@dataclass(frozen=True, eq=False, repr=False)
class Collection:
    """All images of a data set, before a task is made of them.

    Args:
        classes: Names of the classes, in the order of the labels.
        train: Images to train on; validation and test images are carved from them where the data set has none.
        validation: Validation images, where the data set sets them apart.
        test: Test images, where the data set sets them apart.

    Raises:
        SettingError: A label is no position in the classes.
    """

    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None

    def __post_init__(self) -> None:
        rule = f"must be in 0..{len(self.classes) - 1}, a position among the {len(self.classes)} classes"
        for split in filter(None, (self.train, self.validation, self.test)):
            for label in map(int, split.labels.aminmax()):
                require(0 <= label < len(self.classes), "labels", label, rule)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class names and all images with their labels."""
        splits = (self.train, self.validation, self.test)
        return digest_of(repr(self.classes), *(split.fingerprint if split else "" for split in splits))

    def __repr__(self) -> str:
        splits = f"train={self.train}, validation={self.validation}, test={self.test}"
        return f"Collection({len(self.classes)} classes, {splits})"


@dataclass(frozen=True, kw_only=True)
class TaskLoader:
    """Base class of everything that loads a task. Its fields are settings that every task has.

    A task of your own is a frozen dataclass that derives from it. Its fields become settings, and its ``load`` reads
    the images and hands them to :meth:`make_task`, which does the rest: splits, folds, subsets, size and channels.

    Sizes are a count (1 or more), a fraction of the images they are taken from (below 1), or None. Splits are
    stratified. Test is chosen first, then validation, then train: more training images never change the test.

    Args:
        train: Training images. None: all that are left.
        validation: Validation images. None: the data set's own, or else 15% of its training images.
        test: Test images. None: the data set's own, or else 20% of its training images; with folds, the whole fold.
        per_class: Training images of each class. None: all.
        classes: Classes to keep, by name or position, numbered in this order. Empty: all.
        rotate: Degrees by which every image is turned counter-clockwise.
        seed: Seed of the choice.
        folds: Number of stratified folds for cross-validation: the images are divided into so many parts, one of them
            is the test, and validation and training images come from the others. None: no folds.
        fold: Number of the fold that is the test, from 0.

    Raises:
        SettingError: A value is out of range.
    """

    train: int | float | None = None
    validation: int | float | None = None
    test: int | float | None = None
    per_class: int | None = None
    classes: list[str] = field(default_factory=list)
    rotate: float = 0.0
    seed: int = 0
    folds: int | None = None
    fold: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            size: Size = getattr(self, name)
            fits = size is None or 0 < size < 1 or (size >= 1 and float(size).is_integer())
            require(fits, name, size, "must be a count of 1 or more, a fraction below 1, or null")
        few = self.per_class is None or self.per_class >= 1
        require(few, "per_class", self.per_class, "must be at least 1, or null for all")
        require(len(self.classes) != 1, "classes", self.classes, "must be two or more, or empty for all")
        require(math.isfinite(self.rotate), "rotate", self.rotate, "must be a finite number of degrees")
        require(self.seed >= 0, "seed", self.seed, "must not be negative")
        require(self.folds is None or self.folds > 1, "folds", self.folds, "must be 2 or more, or null for no folds")
        rule = "needs folds=..." if self.folds is None else f"must be 0 to {self.folds - 1}"
        require(0 <= self.fold < (self.folds or 1), "fold", self.fold, rule)

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`. Every task of your own defines this."""
        raise NotImplementedError(f"{type(self).__name__} must define load(image_size, channels)")

    def inputs(self) -> str:
        """Return a text that changes with what ``load`` would read, without reading it; empty for installed data.

        A sweep does not take a finished job for one of other inputs. By default these are the file or the folder that
        the field ``path`` names; a task of your own that reads anything else defines this.
        """
        given = getattr(self, "path", None)
        if not given or not isinstance(given, str):
            return ""
        path = Path(given).expanduser()
        return state_of(files_below(path) if path.is_dir() else [path])

    def make_task(self, name: str, data: Collection, image_size: int, channels: int) -> Task:
        """Return the task that the settings ask for, made of the images of a data set.

        Training images come in random order, so that no batch holds a single class. The others keep their order.

        Args:
            name: Name of the task in reports.
            data: All images; they may have any size, and 1 or 3 channels.
            image_size: Height and width of the task's images, in pixels: the largest centred square is scaled to it.
            channels: Channels of the task's images: 1 for gray, 3 for RGB.

        Raises:
            SettingError: A setting does not fit the data.
        """
        require_shape(image_size, channels)
        classes, given = _of_classes(data, self.classes)
        splits = self._divide(self._with_fold(given, classes))
        splits["train"] = self._arrange(splits["train"], classes)
        drawn = {key: self._draw(split, image_size, channels) for key, split in splits.items()}
        return Task(self._title(name), classes, **drawn, origin=data.fingerprint)

    def _with_fold(self, data: dict[str, Split], classes: Sequence[str]) -> dict[str, Split]:
        """Return the data with one fold of its training images as the test, if folds are asked for."""
        if self.folds is None:
            return data
        rule = "needs data without test images of its own: those would be the test of every fold"
        require("test" not in data, "folds", self.folds, rule)
        train = data["train"]
        inside = in_fold(train.labels, self.folds, self.fold, classes, self.seed)
        return {**data, "train": train.take(torch.where(~inside)[0]), "test": train.take(torch.where(inside)[0])}

    def _divide(self, data: Mapping[str, Split]) -> dict[str, Split]:
        wanted = {"test": self.test, "validation": self.validation}
        sizes: dict[str, Size] = {key: size or HELD_OUT[key] for key, size in wanted.items() if key not in data}
        parts = carve(data["train"].labels, {**sizes, "train": self.train}, self.seed)
        splits = {key: data["train"].take(index) for key, index in parts.items()}
        for key, size in wanted.items():
            if key in data:
                splits[key] = data[key].take(carve(data[key].labels, {key: size}, self.seed)[key])
        return splits

    def _arrange(self, train: Split, classes: Sequence[str]) -> Split:
        if self.per_class is not None:
            train = train.take(few_shot(train.labels, self.per_class, classes, self.seed))
        counts = torch.bincount(train.labels, minlength=len(classes))
        bare = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
        shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > 5 else "")
        require(not bare, "train", self.train, f"leaves these classes without an image to train on: {shown}")
        return train.take(torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed)))

    def _draw(self, split: Split, image_size: int, channels: int) -> Split:
        """Return a split with images of the size and channels asked for; those in a file stay there if so."""
        chosen = cast(ChosenImages, split.images)
        if self.rotate % 360 == 0 and tuple(chosen.shape[1:]) == (channels, image_size, image_size):
            return Split(split.images if place_of(chosen.images) else chosen.read(), split.labels)
        images, start = empty(len(split), channels, image_size, image_size, dtype=torch.uint8), 0
        for part in chunks(split.images):
            scaled = rotate(with_channels(resize(part, image_size), channels), self.rotate)
            images[start : start + len(part)] = scaled
            start += len(part)
        return Split(images, split.labels)

    def _title(self, name: str) -> str:
        kept = " ".join(map(str, self.classes)) if len(self.classes) <= 6 else f"{len(self.classes)} classes"
        traits = ", ".join(filter(None, (kept, f"rotated {self.rotate:g}" if self.rotate else "")))
        return f"{name} ({traits})" if traits else name


def existing_folder(path: str, hint: str = "must be a folder that exists") -> Path:
    """Return the path of a folder with ``~`` expanded; raise a SettingError with the hint if there is none."""
    folder = Path(path).expanduser()
    require(path != "" and folder.is_dir(), "path", path, hint + whence(path))
    return folder


def _of_classes(data: Collection, wanted: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the wanted classes and the examples that have one of them, by split; no image is copied yet."""
    keep = class_positions(data.classes, wanted) if wanted else range(len(data.classes))
    splits = {}
    for key, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if split is not None:
            everything = torch.arange(len(split)), split.labels
            index, labels = select_classes(split.labels, keep) if wanted else everything
            require(len(index) > 0, "classes", list(keep), f"has no image of these classes in {key}")
            splits[key] = Split(cast(Tensor, ChosenImages(split.images, index)), labels)
    return tuple(data.classes[place] for place in keep), splits
