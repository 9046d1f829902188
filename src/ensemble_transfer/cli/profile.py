"""Profile a run: which functions its time goes to. ``+experiment=debug_profile`` turns it on."""

import cProfile
import io
import pstats
import re
import sys
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig

from ensemble_transfer.cli.finished import finished
from ensemble_transfer.layout import PROFILE, RECORD

ROWS = 25
"""Functions in each part of the table."""


class Profile(Callback):
    """Profiles each job with cProfile, and prints where its time went.

    The folder of the run gets the text as ``profile.txt``, and all that was measured as ``profile.pstats``, for
    programs that draw it, such as snakeviz. Imports are not counted. Fits in other processes are not seen: set
    ``trainer.workers=1``.
    """

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: object) -> None:
        """Start to measure, once everything is imported."""
        from ensemble_transfer.cli import job

        del config, task_function, kwargs, job
        self._profile = cProfile.Profile()
        self._profile.enable()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        """Stop; print the table and write the files if the run has finished."""
        del job_return, kwargs
        self._profile.disable()
        folder = Path(config.hydra.runtime.output_dir)
        if finished(folder / RECORD) is None:
            return
        text, path = table(self._profile), folder / PROFILE
        path.write_text(text, encoding="utf-8")
        self._profile.dump_stats(path.with_suffix(".pstats"))
        sys.stdout.write(f"{text}Written to {path}; {path.with_suffix('.pstats')} has all functions\n")


def table(profile: cProfile.Profile) -> str:
    """Return the functions that took the most time, and the package's own with all that they call."""
    out = io.StringIO()
    stats = pstats.Stats(profile, stream=out)
    out.write("Where the time went: each function by itself, without what it calls\n")
    stats.sort_stats(pstats.SortKey.TIME).print_stats(ROWS)
    out.write("Functions of ensemble_transfer, with all that they call\n")
    stats.sort_stats(pstats.SortKey.CUMULATIVE).print_stats(re.escape(str(Path(__file__).parents[1])), ROWS)
    text = out.getvalue()
    for folder in sorted(filter(None, sys.path), key=len, reverse=True):  # modules as they are imported
        text = text.replace(f"{folder}/", "")
    return text
