"""Tasks from arrays in memory, and the checks of arrays of images and labels from anywhere."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.chosen import ChosenImages
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
    given = image_array("images", images), label_array(labels)
    data = collection({"train": ("", *given)}, None if classes is None else np.asarray(list(classes)))
    pictures = data.train.images
    size = min(pictures.shape[-2:]) if image_size is None else image_size
    return TaskLoader(**division).make_task(name, data, size, channels or pictures.shape[1])


def collection(splits: Mapping[str, tuple[str, Array, Array]], classes: Array | None = None) -> Collection:
    """Return arrays as the images of a data set.

    Args:
        splits: By split: what stands before ``images`` and ``labels`` in errors, images as for :func:`read_images`, and
            (N,) or (N, 1) integers or texts.
        classes: Names, (C,): integer labels are positions in it, texts are names; None for the labels of ``train``.

    Raises:
        SettingError: The images, labels or classes do not fit, or a label belongs to no class.
    """
    read = {
        split: (before, read_images(f"{before}images", images), _labels(f"{before}labels", labels, len(images)))
        for split, (before, images, labels) in splits.items()
    }
    labels = read["train"][2]
    names = np.unique(labels) if classes is None else classes
    fits = names.ndim == 1 and names.dtype.kind in "iuU"
    require(fits, "classes", f"{names.dtype} {names.shape}", "must be a list of names")
    known = np.arange(len(names)) if classes is not None and labels.dtype.kind != "U" else names
    order, found = known.argsort(), {}
    for split, (before, images, given) in read.items():
        unknown = np.setdiff1d(given, known)
        rule = f"must be one of the {len(known)} classes"
        require(not unknown.size, f"{before}labels", str(unknown[:1]), rule)
        positions = order[np.searchsorted(known, given, sorter=order)].astype(np.int64)
        found[split] = Split(images, torch.from_numpy(positions))
    return Collection(tuple(map(str, names)), **found)


def _labels(key: str, labels: Array, count: int) -> Array:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require(labels.shape == (count,), key, labels.shape, f"must be one for each of {count} images")
    require(labels.dtype.kind in "iuU", key, str(labels.dtype), "must be integers or text")
    return labels


def read_images(key: str, array: Array) -> Tensor:
    """Return images as (N, C, H, W) uint8; the key names them in errors.

    Raises:
        SettingError: The array is not (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, uint8 or floats in [0, 1].
    """
    one = array.ndim == 3 and array.shape[-1] in (1, 3)
    require(not one, key, array.shape, "must be several images; one is given as images[None]")
    array = array[..., None] if array.ndim == 3 else array
    fits = array.ndim == 4 and array.size > 0 and bool({1, 3} & {array.shape[1], array.shape[-1]})
    require(fits, key, array.shape, "must be (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    if array.shape[-1] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8:
        require(array.dtype.kind == "f", key, str(array.dtype), "must be uint8 or floats in [0, 1]")
        low, high = float(array.min()), float(array.max())
        within = 0 <= low <= high <= 1  # NaN fails too
        require(within, key, f"from {low:g} to {high:g}", "must be floats in [0, 1]")
        array = np.rint(array * 255).astype(np.uint8)
    with warnings.catch_warnings():  # torch warns of arrays that it must not write to, which nobody here does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


def image_array(key: str, images: ArrayLike | Tensor) -> Array:
    """Return images as an array; the key names them in errors.

    Raises:
        SettingError: They differ in size.
    """
    if isinstance(images, Tensor | ChosenImages):
        return images.to("cpu").detach().numpy()
    try:
        return np.asarray(images)
    except ValueError as error:
        raise SettingError(key, type(images).__name__, f"is not an array: {error}") from error


def label_array(labels: ArrayLike | Tensor) -> Array:
    """Return labels as an array; texts beside anything else, such as a missing value, stay objects."""
    if isinstance(labels, Tensor):
        return labels.detach().cpu().numpy()
    array = np.asarray(labels if hasattr(labels, "dtype") else np.array(labels, dtype=object))
    texts = [isinstance(label, str) for label in array.flat] if array.dtype.kind == "O" else []
    mixed = any(texts) and not all(texts)
    return array if array.dtype.kind != "O" or mixed else np.asarray(array.tolist())
