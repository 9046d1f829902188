"""Tasks as they are given in Python: a task, a pair of arrays, a folder of images, or a loader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.tasks.arrays import Division, read_images, task_from_arrays
from ensemble_transfer.tasks.folder import ImageFolder, image_files
from ensemble_transfer.tasks.images import resize, with_channels
from ensemble_transfer.tasks.pictures import Files, decoded
from ensemble_transfer.tasks.source import TaskLoader
from ensemble_transfer.tasks.task import Task

Array: TypeAlias = NDArray[Any] | Tensor
Given: TypeAlias = Task | TaskLoader | tuple[Array, Array] | str | Path
"""What a task can be given as."""
Pictures: TypeAlias = Array | str | Path | Sequence[str | Path]
"""What images can be given as: an array, a file, a folder, or a list of files."""

SIDE = 64
"""Height and width of images, in pixels, where nothing that is given says it."""


@dataclass(frozen=True)
class GivenTask:
    """A task as it is given.

    Of arrays and folders, some images are set apart to select on, and a single one stands for the test: the images to
    report on are the caller's own.

    Attributes:
        given: The task, or what it is made of.
        name: ``source`` or ``target``: the name of a task from arrays, and that in errors.
        validation: Share of arrays and folders that is set apart, or how many images.
    """

    given: Given
    name: str
    validation: float

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.TaskSource`."""
        given, division = self.given, Division(validation=self.validation, test=1)
        if isinstance(given, Task):
            return given
        if isinstance(given, TaskLoader):
            return given.load(image_size, channels)
        if isinstance(given, str | Path):
            return ImageFolder(path=str(given), **division).load(image_size, channels)
        images, labels = _pair(self.name, given)
        return task_from_arrays(self.name, images, labels, image_size=image_size, channels=channels, **division)


def shape_of(source: Given, target: Given, image_size: int | None, channels: int | None) -> tuple[int, int]:
    """Return height (and width) and channels that the images of both tasks are brought to.

    Args:
        source: What is given as the source task.
        target: What is given as the target task.
        image_size: In pixels; None for a task's own, or else that of the target's arrays, or the source's.
        channels: 1 or 3; None for a task's own, or else 3 where any images may have colours.

    Raises:
        SettingError: If a task is loaded already with another shape.
    """
    known = {"source": _shape("source", source), "target": _shape("target", target)}
    fixed = {name: known[name] for name, given in (("source", source), ("target", target)) if isinstance(given, Task)}
    order = [shape for shape in (*fixed.values(), known["target"], known["source"]) if shape is not None]
    colours = [3 if shape is None else shape[1] for shape in (fixed or known).values()]
    size = image_size or next((shape[0] for shape in order), SIDE)
    wanted = size, channels or max(colours)
    for name, shape in fixed.items():
        rule = f"has images of {shape} (pixels, channels), and the other task or the settings ask for {wanted}"
        require(shape == wanted, name, "Task", rule)
    return wanted


def _shape(name: str, given: Given) -> tuple[int, int] | None:
    """Return pixels and channels of images; None for those that are not read yet."""
    if isinstance(given, Task):
        return int(given.train.images.shape[-1]), int(given.train.images.shape[1])
    if not isinstance(given, TaskLoader | str | Path):
        images = read_images(f"{name}.images", np.asarray(_pair(name, given)[0])[:1])  # the first says it
        return int(min(images.shape[-2:])), int(images.shape[1])
    return None


def labels_of(given: Given, task: Task) -> NDArray[Any]:
    """Return the labels (classes,) that predictions are given in: as they are in arrays, else the classes' names."""
    if not isinstance(given, tuple):
        return np.asarray(task.classes)
    labels = np.asarray(given[1])
    return np.asarray(task.classes) if labels.dtype.kind == "O" else np.unique(labels)


def _pair(name: str, given: object) -> tuple[Array, Array]:
    fits = isinstance(given, tuple) and len(given) == 2
    rule = "must be a Task, a pair (images, labels) of arrays, or the path of a folder of images"
    require(fits, name, type(given).__name__, rule)
    return given  # type: ignore[return-value]  # the arrays are checked where they are read


def read_pictures(given: Pictures, image_size: int, channels: int) -> Tensor:
    """Return images as (N, channels, image_size, image_size) uint8: the largest centred square of each, scaled.

    Raises:
        SettingError: If they are no images, or a file cannot be read.
    """
    if isinstance(given, str | Path):
        given = [given]
    paths = [Path(path) for path in given] if _are_paths(given) else None
    if paths is None:
        images = read_images("images", np.asarray(given))
        return with_channels(resize(images, image_size), channels)
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    require(bool(files), "images", [str(path) for path in paths], "must name an image")
    found, broken = decoded(Files(files, [str(file) for file in files]), image_size, channels)
    for place, reason in broken.items():
        raise SettingError("images", str(files[place]), f"cannot be read: {reason}")
    return found


def _are_paths(given: object) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(item, str | Path) for item in given)
