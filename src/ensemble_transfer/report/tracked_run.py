"""A run at a logger: what describes it there, what it takes, and runs at Lightning's loggers."""

import csv
import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import replacing
from ensemble_transfer.report.record import Record

log = logging.getLogger(__name__)

RUN_ID = "wandb/run_id.json"
"""File in a run's folder that keeps the id of its W&B run, so that a restarted run continues it."""

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


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run for a logger.

    Attributes:
        folder: Folder of the run; loggers write below it.
        name: Name of the run.
        group: Group of the run, unless the settings name one.
        job_type: Kind of run: the strategy, or ``comparison``. It joins the configuration as ``strategy_name``.
        config: Resolved configuration.
    """

    folder: Path
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        """Tags that are known when the run starts: strategy and budget. A comparison has none."""
        if not self.config:
            return []
        budget = self.config.get("budget")
        return [self.job_type, "no budget" if budget is None else f"budget {budget:g}"]

    def id(self) -> str:
        """Return the id of the W&B run: the one that the folder keeps for this configuration, else a new one.

        The id is random and kept, not computed, so that equal folders on two machines are two runs.
        """
        path = self.folder / RUN_ID
        kept = {name: value for name, value in self.config.items() if name != "logger"}
        digest = hashlib.sha256(json.dumps([self.job_type, kept], sort_keys=True).encode()).hexdigest()
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["config"] == digest and known["id"].isalnum():
                return str(known["id"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # missing or damaged: the run is a new one
        new = uuid.uuid4().hex[:12]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(json.dumps({"id": new, "config": digest}), encoding="utf-8")
        return new


class RunTracker:
    """An open run at a logger, which takes the learning curves of its fits, and its record.

    If the logger raises an error, one warning is logged, and the run is no longer tracked.

    Attributes:
        folder: Folder of the run.
        lost: What the warning names: the logger, and what follows if it is lost.
    """

    folder: Path
    lost: tuple[str, str]
    _lost = False

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Log one step of the learning curves as one row, against the steps of the phase.

        A phase in which members are trained again, such as the cycles of ``few``, has a number the next time:
        ``cycle_2``.

        Args:
            phase: Name of the phase.
            step: Step within the phase, counted from 0.
            losses: Training loss of each member that is trained, by the member's index from 0.
            also: What else is known of this step, by name: learning rate, validation losses.
        """
        named = {f"loss/member_{member + 1:02d}": loss for member, loss in losses.items()}
        number = self._fit_number(phase, step, losses)
        self.metrics(phase if number == 1 else f"{phase}_{number}", step, named | dict(also or {}))

    def _fit_number(self, phase: str, step: int, members: Iterable[int]) -> int:
        """Return which of their fits in a phase members are in, from 1: a new one has begun where steps go back."""
        known: dict[tuple[str, int], tuple[int, int]] = self.__dict__.setdefault("_fits", {})
        number = 1
        for member in members:
            own, last = known.get((phase, member), (1, -1))
            number = max(number, own + (step <= last))
        known |= {(phase, member): (number, step) for member in members}
        return number

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step of a phase as one row, such as those of the user's callbacks."""
        raise NotImplementedError

    def record(self, record: Record) -> None:
        """Log the metrics and the cost of the finished run."""
        raise NotImplementedError

    def close(self, exit_code: int = 0) -> None:
        """End the run; a code other than 0 says that it failed."""
        raise NotImplementedError

    def _guarded(self, action: Callable[..., object], *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if self._lost:
            return
        try:
            action(*arguments, **options)
        except Exception as error:  # noqa: BLE001  # a logger never costs a result
            self._warn(error)

    def _warn(self, error: object) -> None:
        if not self._lost:
            self._lost = True
            name, after = self.lost
            log.warning("%s is lost (%s); the run continues%s", name, " ".join(str(error).split()), after)


class LoggedRun(RunTracker):
    """A run at a Lightning logger: CSV, TensorBoard, or one of the user's.

    Args:
        logger: The logger.
        about: What is logged: its configuration, and the folder of the run.
        kind: ``csv`` and ``tensorboard`` write final metrics and costs into a file of their own, since loggers keep
            what they are given as curves. TensorBoard's table of hyperparameters gets the most important ones.
    """

    def __init__(self, logger: Any, about: TrackedRun, kind: str = "lightning") -> None:  # noqa: ANN401
        self.folder = about.folder
        self.lost = type(logger).__name__, " without it"
        self._logger, self._config, self._kind = logger, dict(about.config), kind
        self._guarded(logger.log_hyperparams, self._config)

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step of a phase as one row."""
        row = {f"{phase}/{name}": value for name, value in values.items()}
        self._guarded(self._logger.log_metrics, row, step)
        self._guarded(self._logger.save)

    def record(self, record: Record) -> None:
        """Log the metrics, and the cost by phase; a logger of the user's gets them as one row of step 0."""
        row = scalars(record)
        if self._kind == "lightning":
            self._guarded(self._logger.log_metrics, row, 0)
        else:
            self._guarded(_write, row, self.folder / self._kind / FINAL)
        if self._kind == "tensorboard":
            few = {name: row[name] for name in IN_TABLE if name in row}
            self._guarded(self._logger.log_hyperparams, self._config, few)
        self._guarded(self._logger.save)

    def close(self, exit_code: int = 0) -> None:
        """End the run."""
        self._guarded(self._logger.finalize, "failed" if exit_code else "success")


def _write(row: Mapping[str, float], path: Path) -> None:
    """Write a table with a row a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "value"), *row.items()])


def scalars(record: Record) -> dict[str, float]:
    """Return the metrics of a record that are finite, and its cost in total and by phase, by their keys."""
    parts = {f"cost/{name}": part for name, part in record.cost.items() if name != "phases"}
    parts |= {f"cost/phase/{phase}": part for phase, part in record.cost.get("phases", {}).items()}
    known = {name: part for name, part in parts.items() if isinstance(part, Mapping)}
    known |= {f"{name}/total": part["total"] for name, part in known.items() if "total" in part}  # of added members
    costs = {f"{name}/{k}": v for name, part in known.items() for k, v in part.items() if not isinstance(v, Mapping)}
    return {key: value for key, value in record.metrics.items() if value is not None and value == value} | costs
