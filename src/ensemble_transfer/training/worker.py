"""A worker process: it reads jobs from a socket, computes their fits, and answers on it until it is closed."""

import logging
import os
import pickle
import shutil
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection

from torch import Tensor

from ensemble_transfer.machine import keep_freed_memory
from ensemble_transfer.tasks.mapped import Place
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.spec import FitSpec, Start

KEPT_FILES = 4
"""Files of images that are kept at once, on either side."""

SECONDS_BETWEEN_REPORTS = 0.1

Job = tuple[GroupFitter, FitSpec, dict[str, Start], bool]
"""Fits of a phase for one worker: what computes them, what for, where they start, and whether curves are wanted."""

_splits: dict[str, Split] = {}


class Line(logging.Handler):
    """The worker's end of the socket: it sends the log, progress and learning curves, each after a word."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._told = 0.0

    def send(self, *answer: object) -> None:
        """Send an answer."""
        self._connection.send_bytes(pickle.dumps(answer))

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line of the log."""
        self.send("log", record.name, record.levelno, record.getMessage())

    def curve(self, *point: object) -> None:
        """Send a step of the learning curves, as a tracker takes it."""
        self.send("curve", *point)

    def progress(self, label: str, step: int, steps: int, loss: float | None) -> None:
        """Send the progress of a fit, not more often than a person can see."""
        if step in (0, steps) or time.monotonic() - self._told > SECONDS_BETWEEN_REPORTS:
            self._told = time.monotonic()
            self.send("progress", label, step, steps, loss)


def compute(job: Job, line: Line) -> tuple[str, object]:
    """Return ``done`` and the fits of a job by key, or ``failed`` and what went wrong."""
    fitter, spec, starts, curves = job
    fitter = replace(fitter, tracker=line if curves else None, report=line.progress)  # type: ignore[arg-type]  # curves alone
    try:
        with fitter.settings.applied():
            return "done", fitter.compute(spec, starts)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other process raises it
        return "failed", _sendable(error)


def opened(place: Place, labels: Tensor, fingerprint: str) -> Split:
    """Return a split whose images are mapped from a file."""
    if fingerprint not in _splits:
        if len(_splits) >= KEPT_FILES:  # what it maps stays on the disk, also when its file is gone
            _splits.pop(next(iter(_splits)))
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


def main(descriptor: int, parent: int) -> None:
    """Compute jobs of a process until the socket is closed."""
    keep_freed_memory()
    temporary = os.environ["TMPDIR"]
    connection = Connection(descriptor)
    line, logger = Line(connection), logging.getLogger("ensemble_transfer")
    logger.setLevel(logging.INFO)
    logger.addHandler(line)
    logger.propagate = False
    try:
        while True:
            line.send(*compute(connection.recv(), line))  # a job of the process that started this one
    except (EOFError, BrokenPipeError):
        if os.getppid() != parent:  # it was killed, and this process noticed before the thread that looks for it
            shutil.rmtree(temporary, ignore_errors=True)
