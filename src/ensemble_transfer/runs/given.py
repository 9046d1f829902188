"""Settings, tasks and members as they are given in Python: arrays, files, folders, tasks, loaders, saved ensembles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.inference.saved import SavedEnsemble, ensemble_folder
from ensemble_transfer.layout import DESCRIPTION
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.description import read_description, readable
from ensemble_transfer.tasks.arrays import Division, image_array, label_array, read_images, task_from_arrays
from ensemble_transfer.tasks.folder import ImageFolder
from ensemble_transfer.tasks.given_images import Array, paths_of, read_pictures
from ensemble_transfer.tasks.loader import TaskLoader
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store

Labels: TypeAlias = Array | Sequence[Any]
Given: TypeAlias = Task | TaskLoader | tuple[Array | Sequence[str | Path], Labels] | str | Path
"""What a task can be given as."""

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "budget": ((Real, NoneType), "must be a number of fine-tunings, or None"),
    "size": ((Integral, NoneType), "must be a whole number, or None"),
    "lineage": ((str,), "must be a word"),
    "members": ((list, tuple), "must be a list of files or folders"),
    "backbone": ((str, Backbone, NoneType), "must be a name, a Backbone or None"),
    "recipe": ((str, Recipes, NoneType), "must be a name, Recipes or None"),
    "trainer": ((str, TrainerSettings), "must be a name or TrainerSettings"),
    "store": ((str, Path, Store, NoneType), "must be a folder, a Store or None"),
    "image_size": ((Integral, NoneType), "must be a number of pixels, or None"),
    "channels": ((Integral, NoneType), "must be 1, 3 or None"),
    "validation": ((Real, NoneType), "must be a share or a number of images, or None"),
    "seed": ((Integral,), "must be a whole number"),
}
"""Types of the settings of :class:`~ensemble_transfer.runs.estimator.TransferEnsemble`, and what is said of others."""

SIDE = 128
"""Height and width of images, in pixels, where nothing that is given says it."""


def check_types(settings: Mapping[str, object]) -> None:
    """Raise a SettingError for a setting of a wrong type; the classes that take the settings check the rest."""
    for name, (types, rule) in _TYPES.items():
        value = settings[name]
        require(isinstance(value, types) and not isinstance(value, bool), name, value, rule)
    strategy = settings["strategy"]
    whole = hasattr(strategy, "plan") and not isinstance(strategy, type)
    known = isinstance(strategy, str) or whole
    require(known, "strategy", strategy, "must be the name of a strategy, or a strategy such as Shift()")


@dataclass(frozen=True)
class GivenTask:
    """A task as it is given.

    Of arrays, files and folders, some images are set apart to select on, and a single one stands for the test: the
    images to report on are the caller's own.

    Attributes:
        given: The task, or what it is made of.
        name: ``source`` or ``target``: the name of a task from arrays, and that in errors.
        validation: Share of arrays and folders that is set apart, or how many images; None for 0.15, or for the whole
            validation split that a folder has.
    """

    given: Given
    name: str
    validation: float | None

    def load(self, image_size: int, channels: int) -> Task:
        """Return the task; see :class:`~ensemble_transfer.tasks.task.Loader`."""
        given, division = self.given, Division(validation=self.validation, test=1)
        if isinstance(given, Task):
            return given
        if isinstance(given, TaskLoader):
            return given.load(image_size, channels)
        if isinstance(given, str | Path):
            return ImageFolder(path=str(given), **division).load(image_size, channels)
        images, labels = _pair(self.name, given)
        if (paths := paths_of(images)) is not None:
            images = read_pictures(paths, image_size, channels)
        return task_from_arrays(self.name, images, labels, image_size=image_size, channels=channels, **division)


def shape_of(given: Iterable[GivenTask], image_size: int | None, channels: int | None) -> tuple[int, int]:
    """Return height (and width) and channels that the images of all tasks are brought to.

    Args:
        given: The tasks, the most important first.
        image_size: In pixels; None for a task's own, or else that of arrays.
        channels: 1 or 3; None for a task's own, or else 3 where any images may have colours.

    Raises:
        SettingError: If a task is loaded already with another shape.
    """
    known = {task.name: _shape(task) for task in given}
    fixed = {task.name: known[task.name] for task in given if isinstance(task.given, Task)}
    order = [shape for shape in (*fixed.values(), *known.values()) if shape is not None]
    colours = [3 if shape is None else shape[1] for shape in (fixed or known).values()]
    size = image_size or next((shape[0] for shape in order), SIDE)
    wanted = size, channels or max(colours)
    for name, shape in fixed.items():
        rule = f"has images of {shape} (pixels, channels), and the other task or the settings ask for {wanted}"
        require(shape == wanted, name, "Task", rule)
    return wanted


def _shape(task: GivenTask) -> tuple[int, int] | None:
    """Return pixels and channels of images; None for those that are not read yet."""
    name, given = task.name, task.given
    if isinstance(given, Task):
        return int(given.train.images.shape[-1]), int(given.train.images.shape[1])
    if isinstance(given, TaskLoader | str | Path):
        return None
    pictures = _pair(name, given)[0]
    if paths_of(pictures) is not None:
        return None
    key = f"{name}.images"
    images = read_images(key, np.atleast_1d(image_array(key, pictures))[:1])  # the first says it
    return int(min(images.shape[-2:])), int(images.shape[1])


def labels_of(given: Given, task: Task) -> NDArray[Any]:
    """Return the labels (classes,) that predictions are given in: as they are in arrays, else the classes' names."""
    if not isinstance(given, tuple):
        return np.asarray(task.classes)
    return np.unique(label_array(given[1]))


def _pair(name: str, given: object) -> tuple[Array, Array]:
    fits = isinstance(given, tuple) and len(given) == 2 and not isinstance(given[0], Task | TaskLoader)
    what = "images and labels (arrays, or a list of files and labels)"
    require(fits, name, type(given).__name__, f"must be {what}, a Task, a loader, or the path of a folder of images")
    pair: Any = given  # the arrays are checked where they are read
    return pair[0], label_array(pair[1])


def saved_folder(given: object) -> Path | None:
    """Return the folder of a saved ensemble, or of a run's, if it is one that is given."""
    if isinstance(given, SavedEnsemble):
        return given.folder
    if not isinstance(given, str | Path):
        return None
    try:
        return ensemble_folder(Path(given).expanduser())
    except SettingError:
        return None


def saved_architecture(paths: Iterable[str | Path]) -> Architecture | None:
    """Return the architecture of the first of the paths that is a saved ensemble; None if none is.

    Raises:
        SettingError: If it cannot be read.
    """
    folder = next(filter(None, map(saved_folder, paths)), None)
    if folder is None:
        return None
    with readable("members", folder):
        return Architecture.from_plain(read_description(folder / DESCRIPTION)["architecture"])
