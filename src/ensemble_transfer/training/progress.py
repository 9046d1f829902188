"""Whom a running fit tells of its progress: bars on the terminal, and the run's logger."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

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

Report = Callable[[str, int, int, float | None], None]
"""Takes the progress of a group's fit: its name, steps taken, steps of the fit, and the mean loss of the members."""


class Tracker(Protocol):
    """The run's logger: it takes curves and what callbacks log, and names the folder in which they may write."""

    folder: Path

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Take a step of the learning curves: the loss of each member, by its index, and what else is known by name."""

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Take numbers of a step of a phase, by name."""


class Bars(Progress):
    """Bars on the terminal, one a group: what is trained, steps, time spent and left, mean loss. It is a report."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description:<31}"),
            BarColumn(6),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=progress_console(),
        )
        self._bars: dict[str, TaskID] = {}

    def __call__(self, label: str, step: int, steps: int, loss: float | None) -> None:
        """Move a group's bar; its first report makes it."""
        shown = "" if loss is None else f"loss {loss:.3f}"
        if label not in self._bars:
            self._bars[label] = self.add_task(label, total=steps, loss=shown)
        self.update(self._bars[label], completed=step, loss=shown)
