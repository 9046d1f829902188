"""Profile a run: which functions its time goes to. ``+experiment=debug_profile`` turns it on."""

import cProfile
import io
import pstats
import sys
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig

from ensemble_transfer.cli.finished import finished
from ensemble_transfer.layout import RECORD

FILE = "profile.pstats"
ROWS = 25
"""Functions in each part of the table."""


class Profile(Callback):
    """Profiles each job with cProfile, prints where its time went, and keeps all that was measured in a file.

    Imports are not counted. Fits in other processes are not seen: set ``trainer.workers=1``.
    """

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: object) -> None:
        """Start to measure, once everything is imported."""
        from ensemble_transfer.cli import build
        from ensemble_transfer.runs import run

        del config, task_function, kwargs, build, run
        self._profile = cProfile.Profile()
        self._profile.enable()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        """Stop; print the table and write the file if the run has finished."""
        del job_return, kwargs
        self._profile.disable()
        folder, out = Path(config.hydra.runtime.output_dir), io.StringIO()
        if finished(folder / RECORD) is None:
            return
        stats = pstats.Stats(self._profile, stream=out)
        stats.dump_stats(folder / FILE)
        out.write("Where the time went: each function by itself, without what it calls\n")
        stats.sort_stats(pstats.SortKey.TIME).print_stats(ROWS)
        out.write("Functions of ensemble_transfer, with all that they call\n")
        stats.sort_stats(pstats.SortKey.CUMULATIVE).print_stats("/ensemble_transfer/", ROWS)
        text = out.getvalue()
        for place in sorted(filter(None, sys.path), key=len, reverse=True):  # modules as they are imported
            text = text.replace(f"{place}/", "")
        sys.stdout.write(f"{text}Written to {folder / FILE}\n")
