"""Track runs with a Lightning logger: CSV, TensorBoard, or one of the user's."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracked_run import TrackedRun

log = logging.getLogger(__name__)


class RunTracker(Protocol):
    """An open run at a logger, which also takes the learning curves of its fits."""

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Take one step of the learning curves: the loss of each member that is trained, by the member's index."""

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
        with_metrics: Whether the configuration is logged once more with the final metrics, for TensorBoard's table of
            hyperparameters, instead of the metrics alone.
    """

    def __init__(self, logger: LightningLogger, about: TrackedRun, with_metrics: bool = False) -> None:
        self._logger, self._config, self._with_metrics = logger, dict(about.config), with_metrics
        self.folder = about.folder
        self._lost = False
        self._guarded(lambda: logger.log_hyperparams(self._config))

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Log one step of the learning curves as one row, against the steps of the phase."""
        self.metrics(phase, step, {f"loss/member_{member + 1:02d}": loss for member, loss in losses.items()})

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step of a phase as one row."""
        row = {f"{phase}/{name}": value for name, value in values.items()}
        self._guarded(lambda: self._logger.log_metrics(row, step))
        self._guarded(self._logger.save)

    def record(self, record: Record) -> None:
        """Log the metrics, and the cost by phase, as one row of step 0."""
        row = scalars(record)
        if self._with_metrics:
            self._guarded(lambda: self._logger.log_hyperparams(self._config, row))
        else:
            self._guarded(lambda: self._logger.log_metrics(row, 0))
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


def scalars(record: Record) -> dict[str, float]:
    """Return the metrics of a record that are finite, and its cost in total and by phase, by their keys."""
    costs = {f"cost/{part}": values for part, values in record.cost.items() if part != "phases"}
    costs |= {f"cost/phase/{phase}": values for phase, values in record.cost.get("phases", {}).items()}
    parts = {name: values for name, values in costs.items() if isinstance(values, Mapping)}
    flat = {f"{name}/{key}": value for name, values in parts.items() for key, value in values.items()}
    return {key: value for key, value in record.metrics.items() if value is not None and value == value} | flat
