"""One Lightning fit of a group of modules, resumable: the only place that makes a Trainer."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from math import inf

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ensemble_transfer.errors import require
from ensemble_transfer.models.copies import move
from ensemble_transfer.training.batches import Batches, FeatureBatches
from ensemble_transfer.training.cost import Meter, measured
from ensemble_transfer.training.executors import grouped
from ensemble_transfer.training.lockstep import CURVE_POINTS, Lockstep
from ensemble_transfer.training.loggers import FitLogger, LogLoss, of_fit
from ensemble_transfer.training.progress import (
    CurveCallback,
    MetricsTracker,
    ProgressCallback,
    Report,
    SlowSteps,
    Tracker,
)
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store, Unfinished

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
def generators_kept(device: torch.device) -> Iterator[None]:
    """Leave torch's generators, of the CPU and of a device, as they are before the block."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        yield


@dataclass(frozen=True)
class Group:
    """Fits to compute in lockstep.

    Attributes:
        modules: The members, with their initial weights; they are trained in place.
        batches: What each sees at every step; its seeds are the members' streams of randomness.
        recipe: What each fit may spend.
        phase: Name of the phase, for the progress bar and the tracker.
        members: Indices of the members, likewise.
        keys: Keys of the fits, for checkpoints; empty for none.
        interrupted: States to go on from, all at one step; empty for fits that start.
        step_seconds: Seconds that a step of all members should take on a CPU, roughly.
    """

    modules: Sequence[nn.Module]
    batches: Batches | FeatureBatches
    recipe: Recipe
    phase: str
    members: Sequence[int]
    keys: Sequence[str] = ()
    interrupted: Sequence[Unfinished] = ()
    step_seconds: float = inf


@dataclass(frozen=True)
class GroupFit:
    """The result of a group's fit.

    Attributes:
        weights: Weights of every member, on the CPU.
        steps: Steps that were taken: the recipe's, unless a callback ended the fit.
        curves: Training loss of every member (points, 2): step and loss.
        meter: Seconds and memory of the whole group.
    """

    weights: list[dict[str, Tensor]]
    steps: int
    curves: list[Tensor]
    meter: Meter


def run_group(
    group: Group,
    settings: TrainerSettings,
    store: Store | None = None,
    tracker: Tracker | None = None,
    report: Report | None = None,
) -> GroupFit:
    """Train whole members in lockstep and return their weights.

    Args:
        group: The modules, and how to train them.
        settings: Where and how it is computed, with the executor decided.
        store: Where checkpoints are written; None for none.
        tracker: Where learning curves are sent while they grow.
        report: Receives the progress; None for nobody.
    """
    assert isinstance(group.batches, Batches)
    for module, state in zip(group.modules, group.interrupted, strict=False):
        module.load_state_dict(dict(state.weights), strict=True)
    executor = grouped(group.modules, settings)
    callbacks = _callbacks(group, settings, store, tracker)
    own = [of_fit(callback, group.phase, group.members) for callback in settings.callbacks]
    with measured(settings.device) as meter:
        batches = group.batches.on(settings.device)
        lockstep = Lockstep(executor, group.recipe, batches, group.interrupted)
        if report is not None:
            callbacks.append(ProgressCallback(report, group.phase, group.members, group.recipe.steps))
        if lockstep.step < group.recipe.steps:
            logger = None
            if settings.callbacks and isinstance(tracker, MetricsTracker):
                logger = FitLogger(tracker, group.phase)
            _fit(lockstep, batches, replace(settings, callbacks=own), callbacks, logger)
    meter.seconds += lockstep.seconds_before
    meter.cpu_seconds += lockstep.cpu_seconds_before
    weights = [{k: v.detach().cpu().contiguous() for k, v in state.items()} for state in executor.state_dicts()]
    return GroupFit(weights, lockstep.step, lockstep.curves(), meter)


def _callbacks(group: Group, settings: TrainerSettings, store: Store | None, tracker: Tracker | None) -> list[Callback]:
    callbacks: list[Callback] = [SlowSteps(group.step_seconds)] if settings.device.type == "cpu" else []
    if tracker is not None:
        callbacks.append(CurveCallback(tracker, group.phase, group.members))
    if store is not None and group.keys:
        callbacks.append(Checkpoints(store, group.keys, settings.checkpoint_seconds))
    return callbacks


@quiet_lightning()
def _fit(
    lockstep: Lockstep, batches: Batches, settings: TrainerSettings, callbacks: list[Callback], logger: Logger | None
) -> None:
    try:
        _fit_under_trainer(lockstep, batches, settings, callbacks, logger)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        names = [type(callback).__name__ for callback in settings.callbacks]
        lacks = "" if logger is not None else "have no logger but the run's (logger=csv gives it one), and "
        rule = f"cannot be used in the runner's fits, which {lacks}validate nothing: {' '.join(str(error).split())}"
        require(not names, "callbacks", names, rule)
        raise


def _fit_under_trainer(
    lockstep: Lockstep, batches: Batches, settings: TrainerSettings, callbacks: list[Callback], logger: Logger | None
) -> None:
    own = settings.callbacks
    trainer = pl.Trainer(
        accelerator=settings.device.type,
        strategy=FewCopies(settings.device),
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # checked by TrainerSettings
        max_steps=lockstep.recipe.steps - lockstep.step,
        max_epochs=-1,
        callbacks=[*callbacks, *([LogLoss(), *own] if own else [])],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in own),
        logger=logger or False,
        log_every_n_steps=-(-lockstep.recipe.steps // CURVE_POINTS),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=LightningEnvironment(),  # one process, also inside a SLURM job, which Lightning would take over
    )
    # An endless loader that starts at the right step: Lightning then has no notion of an epoch to come back to.
    trainer.fit(lockstep, DataLoader(batches, batch_size=None, sampler=count(lockstep.step)))


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


class Checkpoints(Callback):
    """Stores the newest state of every member, every so many seconds.

    Lightning's own ModelCheckpoint ignores ``train_time_interval`` under manual optimisation (seen in 2.6). It also
    writes the group as one, and unpickles it: a member could not go on in another group, nor be checked before loading.
    """

    def __init__(self, store: Store, keys: Sequence[str], seconds: float) -> None:
        self._store, self._keys, self._seconds = store, keys, seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Store the states when it is time."""
        del trainer, outputs, batch, batch_idx
        if time.monotonic() - self._last >= self._seconds:
            assert isinstance(pl_module, Lockstep)
            for key, state in zip(self._keys, pl_module.states(), strict=True):
                self._store.put_unfinished(key, state)
            self._last = time.monotonic()
