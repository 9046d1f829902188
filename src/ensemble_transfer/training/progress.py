"""Progress of a running fit: bars on the terminal, and learning curves for a tracker."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ensemble_transfer.machine import progress_console

log = logging.getLogger(__name__)

SLOW = 25
"""A step is far too slow that takes so many times as long as a rough estimate says."""

PATIENCE = 5.0
"""Seconds of a fit after which its steps are looked at."""

Curve = list[tuple[int, list[float]]]
"""Points (step, loss of each member) along a fit."""


class Tracker(Protocol):
    """Somewhere that learning curves are sent to."""

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Take one step of the learning curves: the loss of each member that is trained, by the member's index."""


@runtime_checkable
class MetricsTracker(Tracker, Protocol):
    """A tracker that also takes what callbacks log, and names the folder in which they may write."""

    @property
    def folder(self) -> Path: ...  # noqa: D102

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Take one step of the learning curves, and what else is known of this step, by name."""

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Take numbers of a step of a phase, by name."""


@dataclass(frozen=True)
class Progressed:
    """How far a group's fit has come.

    Attributes:
        label: Phase and members in words.
        step: Steps taken.
        steps: Steps of the fit.
        loss: Mean training loss of the members at the last point of their curves; None before the first.
    """

    label: str
    step: int
    steps: int
    loss: float | None


Report = Callable[[Progressed], None]
"""Takes the progress of a group's fit after every step."""


class Bars:
    """Bars on the terminal, one a group: phase, members, steps, time spent, time left, mean loss."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(14),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=progress_console(),
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Open the display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; the bars stay on the terminal."""
        self._progress.stop()

    def __call__(self, now: Progressed) -> None:
        """Move a group's bar; its first report makes it."""
        loss = "" if now.loss is None else f"loss {now.loss:.3f}"
        if now.label not in self._bars:
            self._bars[now.label] = self._progress.add_task(now.label, total=now.steps, loss=loss)
        self._progress.update(self._bars[now.label], completed=now.step, loss=loss)


def in_one_bar(report: Report, label: str, done: int, fits: int) -> Report:
    """Return a report of one of several fits that follow one another, which tells their progress as that of one.

    Args:
        report: Receives the progress.
        label: Name of them all.
        done: Number of fits that have ended before.
        fits: Number of all.
    """
    return lambda now: report(Progressed(label, done * now.steps + now.step, fits * now.steps, now.loss))


class ProgressCallback(Callback):
    """Reports a fit's progress after every step.

    Args:
        report: Receives the progress.
        phase: Name of the phase.
        members: Indices of the members that are trained.
        steps: Steps of the fit.
    """

    def __init__(self, report: Report, phase: str, members: Sequence[int], steps: int) -> None:
        self._report, self._label, self._steps = report, f"{phase}, {member_names(members)}", steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report where the fit starts; an interrupted one goes on where it stopped."""
        del trainer
        self._tell(pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Report a step."""
        del trainer, outputs, batch, batch_idx
        self._tell(pl_module)

    def _tell(self, lockstep: pl.LightningModule) -> None:
        step = lockstep.step
        self._report(Progressed(self._label, step, self._steps, newest_loss(lockstep)))  # type: ignore[arg-type]  # int


class SlowSteps(Callback):
    """Warns once if the steps of a fit take far longer than they should.

    Args:
        expected: Seconds that a step of all members should take, roughly.
    """

    def __init__(self, expected: float) -> None:
        self._expected = expected
        self._steps, self._asked = 0, False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Look at the clock; the first step, which prepares much, does not count."""
        del trainer, pl_module, outputs, batch, batch_idx
        if self._steps == 0:
            self._start = time.monotonic()
        elif not self._asked and (spent := time.monotonic() - self._start) >= PATIENCE:
            self._asked, took = True, spent / self._steps
            if took > SLOW * self._expected:
                text = "a step takes %.2f s, where about %.2f s are expected: other processes want the cores, or torch "
                text += "has too many threads, which wait for each other; trainer.threads=1 may be faster"
                log.warning(text, took, self._expected)
        self._steps += 1


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
        self._validated: Callable[..., dict[str, float]] | None = getattr(tracker, "validated", None)

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
        curve = _curve(pl_module)
        for step, losses in curve[self._sent :]:
            point = self._phase, step, dict(zip(self._members, losses, strict=True))
            if self._validated is None:
                self._tracker.curve(*point)
            else:
                self._tracker.curve(*point, self._validated(pl_module, self._members))  # type: ignore[call-arg]
        self._sent = len(curve)


def newest_loss(lockstep: pl.LightningModule) -> float | None:
    """Return the mean loss of the members at the last point of their curves; None before the first."""
    curve = _curve(lockstep)
    return sum(curve[-1][1]) / len(curve[-1][1]) if curve else None


def _curve(lockstep: pl.LightningModule) -> Curve:
    curve: Curve = lockstep.curve  # type: ignore[assignment]  # the callbacks go with Lockstep
    return curve


def member_names(members: Sequence[int]) -> str:
    """Return members in words, counted from 1: ``member 3``, ``members 1-8``, ``members 1, 4``."""
    numbers = [member + 1 for member in members]
    if len(numbers) == 1:
        return f"member {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"members {numbers[0]}-{numbers[-1]}"
    return "members " + ", ".join(map(str, numbers))
