"""Tasks from arrays in memory, and how arrays of images and labels are read, wherever they come from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.source import HELD_OUT, Collection, Source
from ensemble_transfer.tasks.task import Split, Task

Array = NDArray[Any]


def task_from_arrays(
    name: str,
    images: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    validation: int | float = HELD_OUT["validation"],
    test: int | float = HELD_OUT["test"],
    classes: Sequence[str] | None = None,
    seed: int = 0,
    image_size: int | None = None,
) -> Task:
    """Make a task from images and labels in memory, divided by class proportions into the three splits.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> scans = load_digits()
        >>> task = task_from_arrays("digits", scans.images / 16, scans.target, test=300)
        >>> len(task.train), len(task.validation), len(task.test)
        (1227, 270, 300)
        >>> tuple(task.train.images.shape[1:]), task.classes[:3]
        ((1, 8, 8), ('0', '1', '2'))

    Who has splits of their own makes a :class:`~ensemble_transfer.tasks.task.Task` of three
    :class:`~ensemble_transfer.tasks.task.Split`.

    Args:
        name: What reports call the task.
        images: NumPy or torch, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 or floats in [0, 1].
        labels: (N,) integers or texts.
        validation: Validation images, a count (1 or more) or a fraction of all (below 1).
        test: Test images, likewise.
        classes: Names of the classes: integer labels are positions in it, texts are names. None: every different label
            is a class, in sorted order.
        seed: Of the division.
        image_size: Height and width that the largest centred square is scaled to; None for its own size.

    Raises:
        SettingError: Something does not fit; it is named.
    """
    pictures = read_images("images", _array("images", images))
    given = read_labels("labels", _array("labels", labels), len(pictures))
    names, positions = read_classes(given, None if classes is None else np.asarray(list(classes)))
    try:
        collection = Collection(names, Split(pictures, positions(given)))
    except ValueError as error:
        raise SettingError("labels", name, str(error)) from error
    source = Source(validation=validation, test=test, seed=seed)
    size = min(pictures.shape[-2:]) if image_size is None else image_size
    return source._make_task(name, collection, size, pictures.shape[1])


class Positions:
    """Finds labels among the classes.

    Args:
        known: The label of each class, (C,), all different.
    """

    def __init__(self, known: Array) -> None:
        self._known = known
        self._order = known.argsort()

    def __call__(self, labels: Array) -> Tensor:
        """Return the class of each label, (N,) int64.

        Raises:
            ValueError: A label is that of no class.
        """
        unknown = np.setdiff1d(labels, self._known)
        if unknown.size:
            raise ValueError(f"has the label {unknown[0]}, which is not one of its {len(self._known)} classes")
        return torch.from_numpy(self._order[np.searchsorted(self._known, labels, sorter=self._order)].astype(np.int64))


def read_classes(labels: Array, classes: Array | None = None) -> tuple[tuple[str, ...], Positions]:
    """Return the names of the classes, and what finds labels among them.

    Args:
        labels: Integers or texts.
        classes: Names, (C,): integer labels are positions in it, texts are names; None for the different labels.

    Raises:
        SettingError: The classes are no list of names.
    """
    names = np.unique(labels) if classes is None else classes
    fits = names.ndim == 1 and names.dtype.kind in "iuU"
    require(fits, "classes", f"{names.dtype} {names.shape}", "must be a list of names")
    by_position = classes is not None and labels.dtype.kind != "U"
    return tuple(map(str, names)), Positions(np.arange(len(names)) if by_position else names)


def read_labels(key: str, labels: Array, count: int) -> Array:
    """Return labels as (N,) integers or texts; (N, 1) is taken too.

    Raises:
        SettingError: They are no labels of so many images; the setting is the key.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require(labels.shape == (count,), key, labels.shape, f"must be one for each of {count} images")
    require(labels.dtype.kind in "iuU", key, str(labels.dtype), "must be integers or text")
    return labels


def read_images(key: str, array: Array) -> Tensor:
    """Return images as (N, C, H, W) uint8.

    Args:
        key: What errors call them.
        array: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 or floats in [0, 1].

    Raises:
        SettingError: They are no images of these kinds; the setting is the key.
    """
    array = array[..., None] if array.ndim == 3 else array
    fits = array.ndim == 4 and array.size > 0 and bool({1, 3} & {array.shape[1], array.shape[-1]})
    require(fits, key, array.shape, "must be (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    if array.shape[-1] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(_bytes(key, array)))


def _bytes(key: str, array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    require(array.dtype.kind == "f", key, str(array.dtype), "must be uint8 or floats in [0, 1]")
    low, high = float(array.min()), float(array.max())
    within = 0 <= low <= high <= 1  # NaN fails too
    require(within, key, f"from {low:g} to {high:g}", "must be floats in [0, 1]")
    scaled: Array = np.rint(array * 255).astype(np.uint8)
    return scaled


def _array(key: str, values: ArrayLike | Tensor) -> Array:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise SettingError(key, type(values).__name__, f"is no array: {error}") from error
    texts = array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat)  # as of a pandas column
    return array.astype(str) if texts else array
