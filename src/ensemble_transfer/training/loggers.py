"""Lightning's own loggers, for runs that are logged into their folders."""

from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

CSV, TENSORBOARD = "csv", "tensorboard"
"""Folders below that of a run, with the names of the loggers."""

_FILES = ("metrics.csv", "hparams.yaml", "events.out.tfevents.*")


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
