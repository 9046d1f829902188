"""One Lightning fit of a group of modules, resumable: the only place that makes a Trainer."""

import logging
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.choice import make_group
from ensemble_transfer.training.cost import Meter, measured
from ensemble_transfer.training.lockstep import Lockstep
from ensemble_transfer.training.progress import CurveCallback, ProgressBar, Tracker
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings

CHECKPOINT = "last.ckpt"

_KNOWN_WARNINGS = (
    r".*does not have many workers.*",  # tasks are in memory: workers would only copy
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupFit:
    """The result of a group's fit.

    Attributes:
        weights: Weights of every member, on the CPU.
        curves: Training loss of every member (points, 2): step and loss.
        meter: Seconds and memory of the whole group.
    """

    weights: list[dict[str, Tensor]]
    curves: list[Tensor]
    meter: Meter


def run_group(
    modules: Sequence[nn.Module],
    batches: Batches,
    recipe: Recipe,
    settings: TrainerSettings,
    phase: str,
    members: Sequence[int],
    unfinished: Path | None,
    tracker: Tracker | None,
) -> GroupFit:
    """Train modules in lockstep and return their weights.

    Args:
        modules: The members, with their initial weights; they are trained in place.
        batches: What each sees at every step; its seeds are the members' streams of randomness.
        recipe: What the fit may spend.
        settings: Where and how it is computed, with the executor decided.
        phase: Name of the phase, for the progress bar and the tracker.
        members: Indices of the members, likewise.
        unfinished: Folder for checkpoints, from which an interrupted fit goes on; None for none.
        tracker: Where learning curves are sent while they grow.
    """
    group = make_group(settings.executor, modules, settings)
    lockstep = Lockstep(group, recipe, batches.seeds)
    callbacks: list[Callback] = []
    if settings.progress:
        callbacks.append(ProgressBar(phase, members, recipe.steps))
    if tracker is not None:
        callbacks.append(CurveCallback(tracker, phase, members))
    if unfinished is not None:
        callbacks.append(Checkpoints(unfinished, settings.checkpoint_seconds))
    checkpoint, start = _resumable(unfinished)
    with measured(settings.device) as meter:
        if recipe.steps:
            _fit(lockstep, batches, settings, callbacks, checkpoint, start)
    meter.seconds += lockstep.spent_before[0]
    meter.cpu_seconds += lockstep.spent_before[1]
    weights = [{k: v.detach().cpu().contiguous() for k, v in state.items()} for state in group.state_dicts()]
    return GroupFit(weights, lockstep.curves(), meter)


def _fit(
    lockstep: Lockstep,
    batches: Batches,
    settings: TrainerSettings,
    callbacks: list[Callback],
    checkpoint: Path | None,
    start: int,
) -> None:
    _quiet_lightning()
    trainer = pl.Trainer(
        accelerator=settings.device.type,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]  # checked by TrainerSettings
        max_steps=lockstep.recipe.steps,
        max_epochs=-1,
        callbacks=callbacks,
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=LightningEnvironment(),  # one process, also inside a SLURM job, which Lightning would take over
    )
    # An endless loader that starts at the right step: Lightning then has no notion of an epoch to come back to.
    loader = DataLoader(batches, batch_size=None, sampler=count(start))
    trainer.fit(lockstep, loader, ckpt_path=checkpoint, weights_only=True)


class Checkpoints(Callback):
    """Keeps the newest state of a fit, written every so many seconds.

    Lightning's own ModelCheckpoint ignores ``train_time_interval`` under manual optimisation (seen in 2.6).
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._path = folder / CHECKPOINT
        self._seconds = seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write a checkpoint, in one move, where it is time."""
        del pl_module, outputs, batch, batch_idx
        if time.monotonic() - self._last >= self._seconds:
            trainer.save_checkpoint(self._path)
            self._last = time.monotonic()


def _resumable(unfinished: Path | None) -> tuple[Path | None, int]:
    """Return the checkpoint to go on from and its step; (None, 0) where there is none that can be read."""
    path = unfinished / CHECKPOINT if unfinished is not None else None
    if path is None or not path.exists():
        return None, 0
    try:
        step = int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:  # noqa: BLE001  # a damaged file makes torch raise anything, unpickling errors too
        log.warning("%s is damaged (%s); the fit starts again", path, type(error).__name__)
        shutil.rmtree(path.parent)
        return None, 0
    log.info("going on with an interrupted fit at step %d", step)
    return path, step


def _quiet_lightning() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
