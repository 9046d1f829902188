"""What a run is made from besides its settings: the images and weights that it reads, and code of one's own."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ensemble_transfer.errors import settings_under
from ensemble_transfer.runs.code import code_of
from ensemble_transfer.runs.experiment import Experiment
from ensemble_transfer.source.existing import member_files
from ensemble_transfer.tasks.inputs import state_of
from ensemble_transfer.tasks.loader import TaskLoader


def inputs_of(experiment: Experiment) -> dict[str, str]:
    """Return what tells the files and the code of a run from others, by setting, without reading images or weights.

    A setting that names neither is left out, as are installed data.

    Raises:
        SettingError: If a file that the run needs is missing.
    """
    dataset, backbone, ensemble = experiment.dataset, experiment.backbone, experiment.ensemble
    tasks = {"dataset.source": dataset.source, "dataset.target": dataset.target}
    tasks |= {f"evaluation.ood.{name}": task for name, task in experiment.ood.items()}
    parts = {name: _of_task(task, name) for name, task in tasks.items()}
    objects: dict[str, Any] = {"strategy": experiment.strategy, **tasks}
    objects |= {f"trainer.callbacks.{n}": one for n, one in enumerate(experiment.fitter.settings.callbacks)}
    parts |= {f"the code of {name}": code_of(type(one).__module__) for name, one in objects.items()}
    with settings_under("ensemble"):
        given = member_files([*ensemble.members, *ensemble.added])
    weights = {"ensemble.members": given, "backbone.checkpoint": [Path(backbone.checkpoint or "")]}
    parts |= {name: state_of(files) for name, files in weights.items() if files != [Path()] and files}
    return {name: part for name, part in parts.items() if part}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the settings of two runs of the same settings whose files or code differ."""
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def images_of(experiment: Experiment, name: str) -> str:
    """Return the fingerprint of all images of ``dataset.source`` or ``dataset.target``, which are read for it.

    It is the same wherever the images lie and whatever their dates: ``images`` of a record has it. Empty if not known.

    Raises:
        SettingError: If the task cannot be loaded.
    """
    dataset = experiment.dataset
    task = dataset.source if name == "dataset.source" else dataset.target
    if not isinstance(task, TaskLoader):
        return ""
    with settings_under(name), _quiet():
        return task.load(dataset.image_size, dataset.channels).origin


def _of_task(task: object, name: str) -> str:
    if not isinstance(task, TaskLoader):
        return ""
    with settings_under(name), _quiet():
        return task.inputs()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what loaders warn of: they say it again when they load."""
    logger = logging.getLogger("ensemble_transfer.tasks")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
