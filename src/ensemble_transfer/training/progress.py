"""What a person sees of a running fit, and what a tracker is told."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Curve = list[tuple[int, list[float]]]
"""Points (step, loss of each member) along a fit."""


class Tracker(Protocol):
    """Somewhere that learning curves are sent to."""

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Take one step of the learning curves: the loss of each member that is trained, by the member's index."""


class ProgressBar(Callback):
    """A bar for a fit: phase, members, steps, time spent, time left, mean loss.

    Args:
        phase: Name of the phase.
        members: Indices of the members that are trained.
        steps: Steps of the fit.
    """

    def __init__(self, phase: str, members: Sequence[int], steps: int) -> None:
        self._label = f"{phase}, {spoken(members)}"
        self._steps = steps
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(14),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where an interrupted fit stopped."""
        del trainer
        self._progress.start()
        self._bar = self._progress.add_task(self._label, total=self._steps, completed=_step(pl_module), loss="")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Move the bar by a step."""
        del trainer, outputs, batch, batch_idx
        curve: Curve = pl_module.curve  # type: ignore[assignment]  # both callbacks go with Lockstep
        loss = f"loss {sum(curve[-1][1]) / len(curve[-1][1]):.3f}" if curve else ""
        self._progress.update(self._bar, completed=_step(pl_module), loss=loss)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, also when the fit fails."""
        del trainer, pl_module, stage
        self._progress.stop()


class CurveCallback(Callback):
    """Sends new points of the learning curves to a tracker.

    Args:
        tracker: Where to.
        phase: Name of the phase.
        members: Indices of the members that are trained.
    """

    def __init__(self, tracker: Tracker, phase: str, members: Sequence[int]) -> None:
        self._tracker, self._phase, self._members = tracker, phase, members
        self._sent = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Send what the curve has gained."""
        del trainer, outputs, batch, batch_idx
        curve: Curve = pl_module.curve  # type: ignore[assignment]  # both callbacks go with Lockstep
        for step, losses in curve[self._sent :]:
            self._tracker.curve(self._phase, step, dict(zip(self._members, losses, strict=True)))
        self._sent = len(curve)


def _step(lockstep: pl.LightningModule) -> int:
    step: int = lockstep.step  # type: ignore[assignment]
    return step


def spoken(members: Sequence[int]) -> str:
    """Return members in words, counted from 1: ``member 3``, ``members 1-8``, ``members 1, 4``."""
    numbers = [member + 1 for member in members]
    if len(numbers) == 1:
        return f"member {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"members {numbers[0]}-{numbers[-1]}"
    return "members " + ", ".join(map(str, numbers))
