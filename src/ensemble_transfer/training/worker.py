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
from dataclasses import dataclass
from multiprocessing.connection import Connection

from torch import Tensor

from ensemble_transfer.machine import end_with
from ensemble_transfer.tasks.mapped import Place
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.progress import Progressed
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.store import Fitted, Store
from ensemble_transfer.training.trained_part import TrainedPart

SECONDS_BETWEEN_REPORTS = 0.1

_splits: dict[str, Split] = {}


@dataclass(frozen=True, eq=False)
class SharedSplit:
    """A split whose images are in a file that processes map into memory.

    Attributes:
        place: The file, and where the images are in it.
        labels: (examples,) int64.
        fingerprint: The split's fingerprint.
    """

    place: Place
    labels: Tensor
    fingerprint: str


@dataclass(frozen=True)
class Job:
    """Fits of a phase for one worker.

    Attributes:
        part: The part of a member that is trained.
        data: What it is trained on.
        recipe: What each fit may spend.
        phase: Name of the phase.
        starts: Where the members start, by the keys of the fits.
        settings: How fits are computed.
        store: Where they are kept; None for nowhere.
        curves: Whether the other process wants the learning curves.
        beside: Number of workers that compute fits of the phase.
        sharing: Number of those on this worker's device.
    """

    part: TrainedPart
    data: SharedSplit
    recipe: Recipe
    phase: str
    starts: dict[str, Start]
    settings: TrainerSettings
    store: Store | None
    curves: bool
    beside: int
    sharing: int


@dataclass(frozen=True)
class Point:
    """A step of the learning curves: the losses by member."""

    phase: str
    step: int
    losses: Mapping[int, float]


@dataclass(frozen=True)
class Message:
    """A line for the log of the other process."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class Done:
    """The end of a job: its fits by key, or what went wrong."""

    fits: dict[str, Fitted]
    error: Exception | None = None


Answer = Progressed | Point | Message | Done


class Line:
    """The worker's end of the socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = 0.0

    def job(self) -> Job:
        """Return the next job; wait for it."""
        job: Job = pickle.loads(self._connection.recv_bytes())  # from the process that started this one
        return job

    def say(self, answer: Answer) -> None:
        """Send an answer."""
        self._connection.send_bytes(pickle.dumps(answer))

    def curve(self, phase: str, step: int, losses: Mapping[int, float]) -> None:
        """Send a step of the learning curves; this makes the line a tracker."""
        self.say(Point(phase, step, losses))

    def progress(self, now: Progressed) -> None:
        """Send the progress of a fit, not more often than a person can see."""
        if now.step in (0, now.steps) or time.monotonic() - self._told > SECONDS_BETWEEN_REPORTS:
            self._told = time.monotonic()
            self.say(now)


class LineHandler(logging.Handler):
    """Sends lines of the log."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        self._line.say(Message(record.name, record.levelno, record.getMessage()))


def compute(job: Job, line: Line) -> Done:
    """Compute the fits of a job."""
    tracker = line if job.curves else None
    fitter = GroupFitter(job.settings, job.store, tracker, line.progress, job.beside, job.sharing)
    try:
        with job.settings.applied():
            return Done(fitter.compute(FitSpec(job.part, opened(job.data), job.recipe, job.phase), job.starts))
    except Exception as error:  # noqa: BLE001  # whatever it is, the other process raises it
        return Done({}, _sendable(error))


def opened(shared: SharedSplit) -> Split:
    """Return a split whose images are mapped from its file."""
    if shared.fingerprint not in _splits:
        split = Split(shared.place.open(), shared.labels)
        split.__dict__["fingerprint"] = shared.fingerprint  # known: no need to read all images for it
        _splits[shared.fingerprint] = split
    return _splits[shared.fingerprint]


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
    line = Line(Connection(descriptor))
    logger = logging.getLogger("ensemble_transfer")
    logger.setLevel(logging.INFO)
    logger.addHandler(LineHandler(line))
    logger.propagate = False
    try:
        while True:
            line.say(compute(line.job(), line))
    except (EOFError, BrokenPipeError):
        if os.getppid() != parent:  # it was killed, and this process noticed before the thread that looks for it
            shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    from ensemble_transfer.training import worker  # so that messages are pickled by the module's own name

    worker.main(int(sys.argv[1]))
