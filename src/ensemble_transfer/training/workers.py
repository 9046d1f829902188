"""Fits in several processes: the members of a phase are split over workers that stay alive until this process ends.

A worker is a fresh interpreter, not a fork: torch's threads do not survive a fork. It is not started by multiprocessing
either, which would run the user's own script again.
"""

import atexit
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from ensemble_transfer.errors import RunError
from ensemble_transfer.machine import FLOPS_A_SECOND, free_memory, is_one_of_many, usable_cores
from ensemble_transfer.tasks.mapped import Place, place_of
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.progress import Bars, Progressed, Report, member_names
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.store import Fitted
from ensemble_transfer.training.worker import Answer, Done, Job, Message, Point, SharedSplit

STARTING = 10.0
"""Seconds that workers need to import torch, Lightning and timm."""

BYTES_A_WORKER = 700 * 2**20
"""Memory of a worker before it computes anything: the imports."""

_KEPT_FILES = 4

log = logging.getLogger(__name__)


def number_of_workers(settings: TrainerSettings, spec: FitSpec, members: int) -> int:
    """Return over how many processes to split so many members; 1 for this process alone.

    A number that was asked for is kept. ``auto`` is one worker a GPU, or as many as there are cores for the threads
    that torch uses here; fewer if members or memory are few; 1 if starting workers takes longer than they save. It is
    also 1 in a job that a launcher runs beside others, and with callbacks.

    Args:
        settings: The trainer's settings.
        spec: What the members are trained for.
        members: Number of the fits that are missing.
    """
    if isinstance(settings.workers, int):
        return min(settings.workers, members)
    if members < 2 or settings.callbacks or is_one_of_many():
        return 1
    if settings.device.type == "cuda":
        most = torch.cuda.device_count()
    else:
        by_memory = free_memory() // (2 * BYTES_A_WORKER)  # as much again for what it computes
        most = min(usable_cores() // torch.get_num_threads(), by_memory)
    workers = max(1, min(most, members))
    alone = members * (spec.flops / FLOPS_A_SECOND + spec.recipe.steps * spec.part.overhead)
    saved = alone - alone * -(-members // workers) / members
    return workers if saved > (STARTING if len(_pool) < workers else 1.0) else 1


class Worker:
    """A worker process.

    Args:
        place: Its number from 0; on a machine with GPUs, that of its GPU.
    """

    def __init__(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "ensemble_transfer.training.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                env=_environment(place),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # out of reach of the Ctrl-C of a terminal, which this process answers
                stdout=subprocess.DEVNULL,
            )
        self.connection = Connection(ours.detach())

    def send(self, job: Job) -> None:
        """Give it a job; it must have none."""
        try:
            self.connection.send_bytes(pickle.dumps(job))
        except OSError:  # it has died; reading its answer shows that
            log.debug("a worker died before its job")

    def receive(self) -> Answer | None:
        """Return its next answer; None if it has died."""
        try:
            answer: Answer = pickle.loads(self.connection.recv_bytes())  # from the process started above
        except (EOFError, OSError):
            return None
        return answer

    def kill(self) -> None:
        """End the process. What it writes, it writes in one move, so nothing is left half done."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def end(self) -> str:
        """Return in words how the process ended, which must have closed its connection."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.kill()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


_pool: list[Worker] = []
_files: dict[str, SharedSplit] = {}
_folder: list[Path] = []


if hasattr(os, "register_at_fork"):  # workers belong to the process that started them
    for _mine in (_pool, _files, _folder):
        os.register_at_fork(after_in_child=_mine.clear)


@atexit.register
def close_workers() -> None:
    """End all workers of this process; the next phase that needs some starts new ones."""
    while _pool:
        _pool.pop().kill()
    _files.clear()
    while _folder:
        shutil.rmtree(_folder.pop(), ignore_errors=True)


def start_workers(number: int) -> None:
    """Start workers until there are so many. They import what they need while this process does something else."""
    while len(_pool) < number:
        _pool.append(Worker(len(_pool)))


def compute_beside(fitter: GroupFitter, spec: FitSpec, missing: Mapping[str, Start], workers: int) -> dict[str, Fitted]:
    """Return fits by key, computed in so many worker processes.

    With the loop they are the fits that this process would compute, bit for bit; vectorised members round differently
    in groups of other sizes. A worker that dies is replaced once.

    Raises:
        RunError: If a worker died twice at the same fits; the others have finished theirs.
        Exception: What went wrong in a worker.
    """
    start_workers(workers)
    data = _shared(spec.data)
    common = spec.part, data, spec.recipe, spec.phase
    how = fitter.settings.in_worker(), fitter.store, fitter.tracker is not None, workers
    sharing = sharing_a_device(workers, fitter.settings.device)
    jobs = [
        Job(*common, starts, *how, shared) for starts, shared in zip(divided(missing, workers), sharing, strict=True)
    ]
    try:
        if not fitter.settings.progress:
            return _Dispatch(jobs, fitter, lambda _: None).run()
        with Bars() as bars:
            return _Dispatch(jobs, fitter, bars).run()
    except BaseException:  # Ctrl-C too: their work is no longer wanted
        close_workers()
        raise


def divided(missing: Mapping[str, Start], parts: int) -> list[dict[str, Start]]:
    """Return fits in so many parts of nearly equal size, in order."""
    items, count = list(missing.items()), len(missing)
    bounds = [count * part // parts for part in range(parts + 1)]
    return [dict(items[low:high]) for low, high in pairwise(bounds)]


def sharing_a_device(workers: int, device: torch.device) -> list[int]:
    """Return for each of so many workers how many of them compute on its device: all on a CPU, else by GPU."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return [len(range(place % devices, workers, devices)) for place in range(workers)]


class _Dispatch:
    """One phase's jobs at the workers, one each."""

    def __init__(self, jobs: Sequence[Job], fitter: GroupFitter, report: Report) -> None:
        self._jobs = dict(enumerate(jobs))
        self._fitter, self._report = fitter, report
        self._tries = dict.fromkeys(self._jobs, 0)
        self._lost: list[str] = []
        self._found: dict[str, Fitted] = {}

    def run(self) -> dict[str, Fitted]:
        """Return the fits of all jobs."""
        for place in self._jobs:
            self._send(place)
        while self._jobs:
            places = {_pool[place].connection: place for place in self._jobs}
            for ready in wait(list(places)):
                assert isinstance(ready, Connection)
                self._take(places[ready], _pool[places[ready]].receive())
        if self._lost:
            advice = "memory may be short: lower trainer.workers, or trainer.group_size"
            raise RunError(f"{'; '.join(self._lost)}; {advice}")
        return self._found

    def _send(self, place: int) -> None:
        self._tries[place] += 1
        _pool[place].send(self._jobs[place])

    def _take(self, place: int, answer: Answer | None) -> None:
        if answer is None:
            self._replace(place)
        elif isinstance(answer, Done):
            if answer.error is not None:
                raise answer.error
            self._found |= answer.fits
            del self._jobs[place]
        elif isinstance(answer, Progressed):
            self._report(answer)
        elif isinstance(answer, Point) and self._fitter.tracker is not None:
            self._fitter.tracker.curve(answer.phase, answer.step, answer.losses)
        elif isinstance(answer, Message):
            logging.getLogger(answer.logger).log(answer.level, "%s", answer.text)

    def _replace(self, place: int) -> None:
        """Put a new worker in the place of one that has died; its fits are tried once more."""
        how = _pool[place].end()
        _pool[place] = Worker(place)
        job = self._jobs[place]
        what = f"{job.phase}, {member_names([start.member for start in job.starts.values()])}"
        if self._tries[place] < 2:
            log.warning("the worker process of %s %s; these fits are tried once more", what, how)
            self._send(place)
        else:
            self._lost.append(f"the worker process of {what} {how}, twice")
            del self._jobs[place]


def _shared(split: Split) -> SharedSplit:
    """Return a split that workers can map: from its own file if its images are mapped, else from a temporary one."""
    fingerprint, own = split.fingerprint, place_of(split.images)
    if own is not None:
        return SharedSplit(own, split.labels, fingerprint)
    if fingerprint not in _files:
        if len(_files) >= _KEPT_FILES:
            _files.pop(next(iter(_files))).place.file.unlink(missing_ok=True)
        path = _temporary() / fingerprint
        split.images.contiguous().numpy().tofile(path)
        _files[fingerprint] = SharedSplit(Place(path, 0, tuple(split.images.shape)), split.labels, fingerprint)
    return _files[fingerprint]


def _temporary() -> Path:
    """Return the folder of temporary files of the workers, which goes when they do."""
    if not _folder:
        _folder.append(Path(tempfile.mkdtemp(prefix="ensemble_transfer-")))
    return _folder[0]


def _environment(place: int) -> dict[str, str]:
    """Return the environment of a worker: it imports what this process would, and sees one GPU.

    What libraries leave in the temporary folder, it leaves in ours: a worker is killed, and cleans nothing.
    """
    found = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found["TMPDIR"] = str(_temporary())
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        devices = visible.split(",")
        found["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    return found
