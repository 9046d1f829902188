"""A worker process: computes fits for another process until that ends.

``python -m ensemble_transfer.training.worker DESCRIPTOR`` reads jobs from a socket and answers on it; see
:mod:`ensemble_transfer.training.workers`, which starts it.
"""

import logging
import os
import pickle
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from torch import Tensor

from ensemble_transfer.machine import end_with
from ensemble_transfer.tasks.mapped import Place
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.progress import Progressed
from ensemble_transfer.training.spec import FitSpec, Start

SECONDS_BETWEEN_REPORTS = 0.1

_splits: dict[str, Split] = {}


@dataclass(frozen=True)
class Job:
    """Fits of a phase for one worker.

    Attributes:
        fitter: Computes them; it tells nobody of it.
        spec: What the members are trained for.
        starts: Where they start, by the keys of the fits.
        curves: Whether the other process wants the learning curves.
    """

    fitter: GroupFitter
    spec: FitSpec
    starts: dict[str, Start]
    curves: bool


class Line(logging.Handler):
    """The worker's end of the socket: it sends the log, progress and learning curves, each after a word."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._told = 0.0

    def say(self, *answer: object) -> None:
        """Send an answer."""
        self._connection.send_bytes(pickle.dumps(answer))

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line of the log."""
        self.say("log", record.name, record.levelno, record.getMessage())

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Send a step of the learning curves; this makes the line a tracker."""
        self.say("curve", phase, step, losses)

    def progress(self, now: Progressed) -> None:
        """Send the progress of a fit, not more often than a person can see."""
        if now.step in (0, now.steps) or time.monotonic() - self._told > SECONDS_BETWEEN_REPORTS:
            self._told = time.monotonic()
            self.say("progress", now)


def compute(job: Job, line: Line) -> tuple[str, object]:
    """Return ``done`` and the fits of a job by key, or ``failed`` and what went wrong."""
    fitter = replace(job.fitter, tracker=line if job.curves else None, report=line.progress)
    try:
        with fitter.settings.applied():
            return "done", fitter.compute(job.spec, job.starts)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other process raises it
        return "failed", _sendable(error)


def opened(place: Place, labels: Tensor, fingerprint: str) -> Split:
    """Return a split whose images are mapped from a file.

    Args:
        place: The file, and where the images are in it.
        labels: (examples,) int64.
        fingerprint: The split's fingerprint.
    """
    if fingerprint not in _splits:
        split = Split(place.open(), labels)
        split.__dict__["fingerprint"] = fingerprint  # known: no need to read all images for it
        _splits[fingerprint] = split
    return _splits[fingerprint]


def _sendable(error: Exception) -> Exception:
    """Return an error that can be sent, with its traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))  # what was just written
    except Exception:  # noqa: BLE001  # an error of a library may refuse in any way
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker process:\n{trace}")
    return error


def main(descriptor: int) -> None:
    """Compute jobs until the socket is closed."""
    parent, temporary = os.getppid(), os.environ["TMPDIR"]
    end_with(parent, temporary)
    connection = Connection(descriptor)
    line, logger = Line(connection), logging.getLogger("ensemble_transfer")
    logger.setLevel(logging.INFO)
    logger.addHandler(line)
    logger.propagate = False
    try:
        while True:
            line.say(*compute(connection.recv(), line))  # a job of the process that started this one
    except (EOFError, BrokenPipeError):
        if os.getppid() != parent:  # it was killed, and this process noticed before the thread that looks for it
            shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    from ensemble_transfer.training import worker  # so that messages are pickled by the module's own name

    worker.main(int(sys.argv[1]))
