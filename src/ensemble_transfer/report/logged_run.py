"""Track runs with a Lightning logger: CSV, TensorBoard, or one of the user's."""

import csv
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ensemble_transfer.layout import replacing
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracked_run import TrackedRun

log = logging.getLogger(__name__)

FINAL = "final.csv"
"""In the folder of a logger: final metrics and costs, a row each."""

IN_TABLE = (
    "target/test/ensemble/accuracy",
    "target/test/calibrated/nll",
    "target/validation/ensemble/accuracy",
    "target/validation/calibrated/nll",
    "target/test/member/accuracy",
    "target/test/diversity/disagreement",
    "cost/total/fine_tunings",
    "cost/total/seconds",
)
"""What TensorBoard's table of hyperparameters shows of a run's result."""


class RunTracker(Protocol):
    """An open run at a logger, which also takes the learning curves of its fits."""

    folder: Path

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Take one step of the learning curves: the loss of each member that is trained, by the member's index.

        Args:
            phase: Name of the phase.
            step: Step within the phase, counted from 0.
            losses: Training loss by member, from 0.
            also: What else is known of this step, by name: learning rate, validation losses.
        """

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Take what the user's callbacks log at a step of a phase."""

    def record(self, record: Record) -> None:
        """Take the metrics and the cost of the finished run."""

    def close(self, exit_code: int = 0) -> None:
        """End the run; a code other than 0 says that it failed."""


class LightningLogger(Protocol):
    """What this module needs of a Lightning logger."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401
        """Take the configuration."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> object:  # noqa: ANN401
        """Take numbers by name."""

    def save(self) -> object:
        """Write what was logged."""

    def finalize(self, status: str) -> object:
        """End the run."""


class LoggedRun:
    """A run at a Lightning logger.

    If the logger raises an error, one warning is logged, and the run is no longer tracked.

    Args:
        logger: The logger.
        about: What is logged: its configuration, and the folder of the run.
        kind: ``csv`` and ``tensorboard`` write final metrics and costs into a file of their own, since loggers keep
            what they are given as curves. TensorBoard's table of hyperparameters gets the most important ones.
    """

    def __init__(self, logger: LightningLogger, about: TrackedRun, kind: str = "lightning") -> None:
        self._logger, self._config, self._kind = logger, dict(about.config), kind
        self.folder = about.folder
        self._lost = False
        self._guarded(lambda: logger.log_hyperparams(self._config))

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Log one step of the learning curves as one row, against the steps of the phase."""
        self.metrics(phase, step, named_losses(losses) | dict(also or {}))

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step of a phase as one row."""
        row = {f"{phase}/{name}": value for name, value in values.items()}
        self._guarded(lambda: self._logger.log_metrics(row, step))
        self._guarded(self._logger.save)

    def record(self, record: Record) -> None:
        """Log the metrics, and the cost by phase; a logger of the user's gets them as one row of step 0."""
        row = scalars(record)
        if self._kind == "lightning":
            self._guarded(lambda: self._logger.log_metrics(row, 0))
        else:
            self._guarded(lambda: _write(row, self.folder / self._kind / FINAL))
        if self._kind == "tensorboard":
            few = {name: row[name] for name in IN_TABLE if name in row}
            self._guarded(lambda: self._logger.log_hyperparams(self._config, few))
        self._guarded(self._logger.save)

    def close(self, exit_code: int = 0) -> None:
        """End the run."""
        self._guarded(lambda: self._logger.finalize("failed" if exit_code else "success"))

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001  # a logger never costs a result
            self._lost = True
            name, reason = type(self._logger).__name__, " ".join(str(error).split())
            log.warning("%s is lost (%s); the run continues without it", name, reason)


def named_losses(losses: Mapping[int, float]) -> dict[str, float]:
    """Return the losses of members, by index from 0, by their names in a log."""
    return {f"loss/member_{member + 1:02d}": loss for member, loss in losses.items()}


def _write(row: Mapping[str, float], path: Path) -> None:
    """Write a table with a row a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "value"), *row.items()])


def scalars(record: Record) -> dict[str, float]:
    """Return the metrics of a record that are finite, and its cost in total and by phase, by their keys."""
    costs = {f"cost/{part}": values for part, values in record.cost.items() if part != "phases"}
    costs |= {f"cost/phase/{phase}": values for phase, values in record.cost.get("phases", {}).items()}
    parts = {name: values for name, values in costs.items() if isinstance(values, Mapping)}
    flat = {f"{name}/{key}": value for name, values in parts.items() for key, value in values.items()}
    return {key: value for key, value in record.metrics.items() if value is not None and value == value} | flat
