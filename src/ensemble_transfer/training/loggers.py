"""Lightning's own loggers, for runs that are logged into their folders."""

import copy
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning import callbacks as lightning
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from ensemble_transfer.errors import require
from ensemble_transfer.training.progress import Tracker

CSV, TENSORBOARD = "csv", "tensorboard"
"""Folders below that of a run, with the names of the loggers."""

_FILES = ("metrics.csv", "final.csv", "hparams.yaml", "events.out.tfevents.*")


def has_tensorboard() -> bool:
    """Return whether a package is installed that TensorBoard's logger can write with."""
    return any(find_spec(name) is not None for name in ("tensorboard", "tensorboardX"))


def file_logger(kind: str, folder: Path) -> Logger:
    """Return a logger of a kind, ``csv`` or ``tensorboard``, that writes below a run's folder.

    What it wrote there for a run that was stopped is removed: a run that starts again sends all its curves anew.
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
    """

    def __init__(self, tracker: Tracker, phase: str) -> None:
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


LOSS = "train/loss"
"""What a callback can monitor: the mean loss of the members at the newest point of their curves."""

_CANNOT: tuple[tuple[type[Callback], str], ...] = (
    (
        lightning.EarlyStopping,
        "stops at the end of an epoch or a validation, and a fit has neither: it ends after recipe.full.steps "
        "(likewise of the other recipes), or where a callback of yours sets trainer.should_stop",
    ),
    (
        lightning.StochasticWeightAveraging,
        "averages weights over epochs, and a fit has none; take EMAWeightAveraging, which averages over steps",
    ),
    (lightning.ProgressBar, "shows a bar beside the runner's own; leave it out (trainer.progress=false shows none)"),
    (
        lightning.GradientAccumulationScheduler,
        "needs automatic optimization; set recipe.full.batch_size, and trainer.group_size=1 if memory is short",
    ),
    (lightning.BatchSizeFinder, "fits once more to search; set recipe.full.batch_size"),
    (lightning.LearningRateFinder, "fits once more to search; set recipe.full.lr, or search with hydra/sweeper=tune"),
    (lightning.BaseFinetuning, "unfreezes by epochs, and a fit has none; see strategy=head and strategy=lp_ft"),
)
"""Callbacks that cannot do in a fit what they are for, with the reason and what does it here."""


def require_usable(callbacks: Sequence[object]) -> None:
    """Raise a SettingError for what is no callback, or cannot do in a fit what it is for."""
    for callback in callbacks:
        require(isinstance(callback, Callback), "callbacks", callback, "must be Lightning callbacks")
        for kind, reason in _CANNOT:
            require(not isinstance(callback, kind), "callbacks", type(callback).__name__, reason)
        watched = callback.monitor if isinstance(callback, lightning.ModelCheckpoint) else None
        rule = f"monitors {watched!r}, and a fit logs {LOSS!r} alone: there is no validation in it"
        require(watched in (None, LOSS), "callbacks", type(callback).__name__, rule)


def of_fit(callback: Callback, label: str) -> Callback:
    """Return a callback as one fit of a run sees it; its label has the phase and the members.

    A ModelCheckpoint would keep the best of all fits, and remove those of the fits before. So each fit has a copy of
    its own, whose files begin with phase and members.
    """
    if not isinstance(callback, lightning.ModelCheckpoint):
        return callback
    own = copy.deepcopy(callback)
    name = re.sub(r"[^\w-]+", "_", label.replace(", ", "-", 1))
    own.filename = f"{name}-{callback.filename or '{epoch}-{step}'}"
    own.CHECKPOINT_NAME_LAST = f"{name}-{callback.CHECKPOINT_NAME_LAST}"
    return own
