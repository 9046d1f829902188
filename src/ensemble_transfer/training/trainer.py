"""The runner's Trainer, quiet, with the user's callbacks and the run's logger."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy

from ensemble_transfer.errors import require
from ensemble_transfer.models.copies import move
from ensemble_transfer.training.course import CURVE_POINTS, Course
from ensemble_transfer.training.loggers import FitLogger, of_fit

_KNOWN_WARNINGS = (
    r".*does not have many workers.*",  # tasks are in memory: workers would only copy
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
    r"GPU available but not used.*",  # trainer=cpu was asked for
    r"Checkpoint directory .* exists and is not empty",  # the user's callback has one for all fits of a run
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence in the block what Lightning says about every fit: its hardware, and warnings that mean nothing here.

    Its callbacks may speak: the user has asked for them.
    """
    logger, callbacks = logging.getLogger("pytorch_lightning"), logging.getLogger("pytorch_lightning.callbacks")
    level, level_of_callbacks = logger.level, callbacks.level
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        callbacks.setLevel(callbacks.getEffectiveLevel())
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
            callbacks.setLevel(level_of_callbacks)


@contextmanager
def trainer_of(course: Course) -> Iterator[pl.Trainer]:
    """Yield what takes the steps that are left; callbacks see them, and log to the run's logger if there is one.

    Raises:
        SettingError: If a callback cannot be used.
    """
    callbacks, logger = _users(course)
    try:
        with quiet_lightning():
            yield _trainer(course, callbacks, logger)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        lacks = "" if logger is not None else "have no logger but the run's (logger=csv gives it one), and "
        rule = f"cannot be used in the runner's fits, which {lacks}validate nothing: {' '.join(str(error).split())}"
        require(not callbacks, "callbacks", [type(callback).__name__ for callback in callbacks], rule)
        raise


def _users(course: Course) -> tuple[list[Callback], Logger | None]:
    """Return the user's callbacks as this fit sees them, and the run's logger as it is theirs."""
    watch, callbacks = course.watch, course.settings.callbacks
    if watch is None or not callbacks:
        return [], None
    logger = None if watch.tracker is None else FitLogger(watch.tracker, watch.spec.phase)
    return [of_fit(callback, watch.label) for callback in callbacks], logger


def _trainer(course: Course, callbacks: Sequence[Callback], logger: Logger | None) -> pl.Trainer:
    settings = course.settings
    return pl.Trainer(
        accelerator=settings.device.type,
        strategy=FewCopies(settings.device),
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # checked by TrainerSettings
        max_steps=course.recipe.steps - course.step,
        max_epochs=-1,
        callbacks=[*callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        logger=logger or False,
        log_every_n_steps=-(-course.recipe.steps // CURVE_POINTS),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=LightningEnvironment(),  # one process, also inside a SLURM job, which Lightning would take over
    )


class FewCopies(SingleDeviceStrategy):
    """One device, to which the weights go together, and from which they come back without gradients and moments."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device)

    def model_to_device(self) -> None:
        """Send the weights."""
        assert self.model is not None
        move(self.model, self.root_device)
        super().model_to_device()

    def teardown(self) -> None:
        """Fetch the weights, and drop what a finished or failed fit leaves besides."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
        if self.lightning_module is not None:
            move(self.lightning_module, torch.device("cpu"))
        super().teardown()
