"""Tasks from arrays in memory, and the checks of arrays of images and labels from anywhere."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.task import Split, Task

Array = NDArray[Any]


class Division(TypedDict, total=False):
    """How images are divided into the three splits: settings of :class:`~ensemble_transfer.tasks.loader.TaskLoader`."""

    train: int | float | None
    validation: int | float | None
    test: int | float | None
    per_class: int | None
    seed: int
    folds: int | None
    fold: int


def task_from_arrays(
    name: str,
    images: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    **division: Unpack[Division],
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

    If you have splits already, make a :class:`~ensemble_transfer.tasks.task.Task` of three
    :class:`~ensemble_transfer.tasks.task.Split`.

    Args:
        name: Name of the task in reports.
        images: NumPy or torch, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 or floats in [0, 1].
        labels: (N,) integers or texts.
        classes: Names of the classes: integer labels are positions in it, texts are names. None: every different label
            is a class, in sorted order.
        image_size: Height and width of the task's images: the largest centred square is scaled to it. None: its own.
        channels: Channels of the task's images: 1 for gray, 3 for RGB. None: their own.
        **division: ``train``, ``validation``, ``test`` (a count, or a fraction below 1), ``per_class``, ``seed``,
            ``folds``, ``fold``: see :class:`~ensemble_transfer.tasks.loader.TaskLoader`.

    Raises:
        SettingError: An argument does not fit; the message names it.
    """
    pictures = read_images("images", _array("images", images))
    given = read_labels("labels", _array("labels", labels), len(pictures))
    names, positions = read_classes(given, None if classes is None else np.asarray(list(classes)))
    try:
        collection = Collection(names, Split(pictures, positions(given)))
    except ValueError as error:
        raise SettingError("labels", name, str(error)) from error
    size = min(pictures.shape[-2:]) if image_size is None else image_size
    return TaskLoader(**division).make_task(name, collection, size, channels or pictures.shape[1])


def read_classes(labels: Array, classes: Array | None = None) -> tuple[tuple[str, ...], Callable[[Array], Tensor]]:
    """Return the names of the classes, and a function from labels to classes, (N,) int64.

    The function raises a ValueError for a label that belongs to no class.

    Args:
        labels: Integers or texts.
        classes: Names, (C,): integer labels are positions in it, texts are names; None for the different labels.

    Raises:
        SettingError: The classes are not a list of names.
    """
    names = np.unique(labels) if classes is None else classes
    fits = names.ndim == 1 and names.dtype.kind in "iuU"
    require(fits, "classes", f"{names.dtype} {names.shape}", "must be a list of names")
    known = np.arange(len(names)) if classes is not None and labels.dtype.kind != "U" else names
    order = known.argsort()

    def positions(given: Array) -> Tensor:
        unknown = np.setdiff1d(given, known)
        if unknown.size:
            raise ValueError(f"has the label {unknown[0]}, which is not one of its {len(known)} classes")
        return torch.from_numpy(order[np.searchsorted(known, given, sorter=order)].astype(np.int64))

    return tuple(map(str, names)), positions


def read_labels(key: str, labels: Array, count: int) -> Array:
    """Return labels as (N,) integers or texts; (N, 1) is accepted too.

    Raises:
        SettingError: There is not one label per image, or labels have another type; the setting is the key.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require(labels.shape == (count,), key, labels.shape, f"must be one for each of {count} images")
    require(labels.dtype.kind in "iuU", key, str(labels.dtype), "must be integers or text")
    return labels


def read_images(key: str, array: Array) -> Tensor:
    """Return images as (N, C, H, W) uint8.

    Args:
        key: Name of the images in errors.
        array: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 or floats in [0, 1].

    Raises:
        SettingError: The array has another shape, type or range; the setting is the key.
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
        raise SettingError(key, type(values).__name__, f"is not an array: {error}") from error
    texts = array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat)  # as of a pandas column
    return array.astype(str) if texts else array
