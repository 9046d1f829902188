"""The LightningModule that trains whole members in lockstep, and the only Trainer."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ensemble_transfer.errors import require, require_uninterrupted
from ensemble_transfer.models.copies import move
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.course import CURVE_POINTS, Course, Watch, require_finite
from ensemble_transfer.training.executors import grouped
from ensemble_transfer.training.loggers import LOSS, FitLogger, of_fit
from ensemble_transfer.training.recipe import Recipe, optimizer_of
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Unfinished

_KNOWN_WARNINGS = (
    r".*does not have many workers.*",  # tasks are in memory: workers would only copy
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
    r"GPU available but not used.*",  # trainer=cpu was asked for
    r"Checkpoint directory .* exists and is not empty",  # the user's callback has one for all fits of a run
)


class Lockstep(Course, pl.LightningModule):
    """Trains members together: every step is one step of each, with one optimizer over all.

    Each member draws from its own seed and the step, and AdamW and SGD update each weight by itself. So a member's
    result does not depend on the other members of its group.

    Args:
        modules: The members, with the weights that they go on from; they are trained in place.
        batches: Their batches, with their streams of randomness.
        recipe: Optimizer, schedule and number of steps.
        settings: Where and how it is computed, with the executor decided.
        interrupted: The members' states at a step that they have all reached; empty for fits that start.
        watch: Is told of every step, and tells the user's callbacks whose fit it is; None for nobody, and no callbacks.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        batches: Batches,
        recipe: Recipe,
        settings: TrainerSettings,
        interrupted: Sequence[Unfinished] = (),
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.group = grouped(modules, settings)
        self.begin(recipe, interrupted)
        self.batches = batches.on(settings.device)
        self.settings, self.watch = settings, watch
        self._unchecked: list[Tensor] = []
        self._optimizer_states = [state.optimizer for state in interrupted]

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> None:
        """Take one optimizer step with inputs (members, batch, ...) and labels (members, batch).

        Raises:
            DivergedError: If a loss is not finite.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)  # one, with one schedule: configure_optimizers says so
        assert isinstance(scheduler, LambdaLR)
        require_uninterrupted()
        optimizer.zero_grad()
        losses = self.group.backward(*batch, self.batches.step_seeds(self.step), self.recipe.label_smoothing)
        if self.recipe.clip is not None:
            self.group.clip(self.recipe.clip)
        optimizer.step()
        scheduler.step()
        self._unchecked.append(losses)
        if self.is_on_curve or losses.device.type == "cpu":  # a GPU is waited for at the points of the curve only
            finite = require_finite(self._unchecked, self.step)
            self._unchecked = []
            if self.is_on_curve:
                self.curve.append((self.step, finite[-1]))
        self.step += 1
        if self.settings.callbacks and self.newest_loss is not None:
            self.log(LOSS, self.newest_loss, logger=False, batch_size=1)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Tell of the step."""
        del outputs, batch, batch_idx
        if self.watch is not None:
            self.watch.stepped(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer over all members and its schedule, both at the step that the fit starts from."""
        recipe, start = self.recipe, self.step
        trained = [*self.group.trained()]
        self.optimizer = optimizer_of(recipe, trained, fused=all(parameter.is_cuda for _, parameter in trained))
        if self._optimizer_states:
            self.group.restore(self.optimizer, self._optimizer_states)
            self._optimizer_states = []
        schedule = LambdaLR(self.optimizer, lambda step: recipe.rate(start + step))
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Start the clocks."""
        self._started = time.perf_counter(), time.process_time()
        if self.watch is not None:
            self.watch.begin(self)


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


@quiet_lightning()
def train(lockstep: Lockstep) -> None:
    """Take the steps that are left; the user's callbacks see them, and log to the run's logger if there is one.

    Raises:
        SettingError: If a callback cannot be used.
        DivergedError: If a loss is not finite.
    """
    if lockstep.step == lockstep.recipe.steps:
        return
    callbacks, logger = _users(lockstep)
    try:
        # An endless loader that starts at the right step: Lightning then has no notion of an epoch to come back to.
        loader = DataLoader(lockstep.batches, batch_size=None, sampler=count(lockstep.step))
        _trainer(lockstep, callbacks, logger).fit(lockstep, loader)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        lacks = "" if logger is not None else "have no logger but the run's (logger=csv gives it one), and "
        rule = f"cannot be used in the runner's fits, which {lacks}validate nothing: {' '.join(str(error).split())}"
        require(not callbacks, "callbacks", [type(callback).__name__ for callback in callbacks], rule)
        raise


def _users(lockstep: Lockstep) -> tuple[list[Callback], Logger | None]:
    """Return the user's callbacks as this fit sees them, and the run's logger as it is theirs."""
    watch, callbacks = lockstep.watch, lockstep.settings.callbacks
    if watch is None or not callbacks:
        return [], None
    logger = None if watch.tracker is None else FitLogger(watch.tracker, watch.spec.phase)
    return [of_fit(callback, watch.label) for callback in callbacks], logger


def _trainer(lockstep: Lockstep, callbacks: Sequence[Callback], logger: Logger | None) -> pl.Trainer:
    settings = lockstep.settings
    return pl.Trainer(
        accelerator=settings.device.type,
        strategy=FewCopies(settings.device),
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # checked by TrainerSettings
        max_steps=lockstep.recipe.steps - lockstep.step,
        max_epochs=-1,
        callbacks=[*callbacks],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        logger=logger or False,
        log_every_n_steps=-(-lockstep.recipe.steps // CURVE_POINTS),
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
