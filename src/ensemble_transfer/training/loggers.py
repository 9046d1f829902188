"""Lightning's own loggers, for runs that are logged into their folders."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from ensemble_transfer.training.progress import MetricsTracker

CSV, TENSORBOARD = "csv", "tensorboard"
"""Folders below that of a run, with the names of the loggers."""

_FILES = ("metrics.csv", "final.csv", "hparams.yaml", "events.out.tfevents.*")


def has_tensorboard() -> bool:
    """Return whether a package is installed that TensorBoard's logger can write with."""
    return any(find_spec(name) is not None for name in ("tensorboard", "tensorboardX"))


def file_logger(kind: str, folder: Path) -> Logger:
    """Return a logger that writes below a run's folder.

    What it wrote there for a run that was stopped is removed: a run that starts again sends all its curves anew.

    Args:
        kind: ``csv`` or ``tensorboard``.
        folder: The run's folder.
    """
    for pattern in _FILES:
        for file in (folder / kind).glob(pattern):
            file.unlink()
    if kind == CSV:
        return CSVLogger(folder, name="", version=CSV)
    return TensorBoardLogger(folder, name="", version=TENSORBOARD, default_hp_metric=False)


class FitLogger(Logger):
    """The run's logger as the trainer of one fit sees it, so that callbacks such as LearningRateMonitor can log.

    A run has many fits, whose trainers all count from 0 and would each close the logger at their end. So what callbacks
    log goes to the run's tracker, under the name of the fit's phase, and nothing else does.

    Args:
        tracker: The run at its logger.
        phase: Name of the phase.
    """

    def __init__(self, tracker: MetricsTracker, phase: str) -> None:
        super().__init__()
        self._tracker, self._phase = tracker, phase

    @property
    def save_dir(self) -> str:
        """Folder in which callbacks write, such as ``checkpoints``: the run's."""
        return str(self._tracker.folder)

    @property
    def name(self) -> str:
        """No folder below it."""
        return ""

    @property
    def version(self) -> str:
        """No folder below it: one callback sees all fits of a run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send numbers of a step of the phase to the tracker."""
        self._tracker.metrics(self._phase, step or 0, {name: float(value) for name, value in metrics.items()})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Do nothing: the run's configuration is logged once, by the run."""
