"""Fits in several processes: the members of a phase are split over workers that stay alive until this process ends.

A worker is a fresh interpreter, which reads jobs from a socket and answers on it. It is not a fork: torch's threads do
not survive one. It is not started by multiprocessing either, which would run the user's own script again. The executors
of loky and of the standard library do not fit: a worker that dies ends the others with their unfinished fits, and all
workers have one environment, so one GPU.
"""

import atexit
import io
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.errors import RunError
from ensemble_transfer.machine import end_with, free_memory, is_one_of_many, usable_cores
from ensemble_transfer.tasks.mapped import Place, place_of
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.store import Fitted
from ensemble_transfer.training.worker import KEPT_FILES, Job, main, opened

ANCESTOR = "ancestor"
"""The phase of one member that many follow."""

STARTING = 10.0
"""Seconds that workers need to import torch, Lightning and timm."""

BYTES_A_WORKER = 700 * 2**20
"""Memory of a worker before it computes anything: the imports."""

log = logging.getLogger(__name__)


def number_of_workers(settings: TrainerSettings, spec: FitSpec, members: int) -> int:
    """Return over how many processes to split so many members; 1 for this process alone.

    A number that was asked for is kept. ``auto`` is one worker a GPU, or as many as there are cores for the threads
    that torch uses here; fewer if members or memory are few; 1 if starting workers takes longer than they save. It is
    also 1 in a job that a launcher runs beside others, and with callbacks.
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
    alone = members * spec.seconds
    saved = alone - alone * -(-members // workers) / members
    return workers if saved > (STARTING if len(_pool) < workers else 1.0) else 1


def start_ahead(settings: TrainerSettings, spec: FitSpec) -> None:
    """Start workers where this process is to train the one ancestor of many members: they import meanwhile.

    They are as many as a fit of a member a core takes, where it is as long.
    """
    if spec.phase == ANCESTOR and (workers := number_of_workers(settings, spec, usable_cores())) > 1:
        start_workers(workers)


_PROGRAM = f"""
import os
from {end_with.__module__} import end_with
end_with({{parent}}, os.environ["TMPDIR"])  # before torch is imported, which takes long on a busy machine
from {main.__module__} import main
main({{descriptor}}, {{parent}})
"""
"""What a worker's interpreter runs."""


class Worker:
    """A worker process; its place is its number from 0, and on a machine with GPUs that of its GPU."""

    def __init__(self, place: int) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(parent=os.getpid(), descriptor=theirs.fileno())],
                env=_environment(place),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # out of reach of the Ctrl-C of a terminal, which this process answers
                stdout=subprocess.DEVNULL,
            )

    def send(self, job: Job) -> None:
        """Give it a job; it must have none.

        Raises:
            OSError: If there is no room for the images that it is to map.
        """
        file = io.BytesIO()
        _Pickler(file).dump(job)
        with suppress(OSError):  # it has died; reading its answer shows that
            self.connection.send_bytes(file.getbuffer())

    def receive(self) -> Any:  # noqa: ANN401
        """Return its next answer, a word and what belongs to it; None if it has died."""
        try:
            return self.connection.recv()  # pickled by the process started above
        except (EOFError, OSError):
            return None

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
_files: dict[str, Place] = {}
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
    settings = replace(fitter.settings, workers=1, progress=False, threads=torch.get_num_threads())
    items, curves = list(missing.items()), fitter.tracker is not None
    spec = replace(spec, validation=None)  # whose curve workers do not send
    jobs: dict[int, Job] = {}
    for place, shared in enumerate(sharing_a_device(workers, fitter.settings.device)):
        one = GroupFitter(settings, fitter.store, sharing=shared)
        own = slice(len(items) * place // workers, len(items) * (place + 1) // workers)
        jobs[place] = one, spec, dict(items[own]), curves
    try:
        return _Dispatch(jobs, fitter).run()
    except BaseException:  # Ctrl-C too: their work is no longer wanted
        close_workers()
        raise


def sharing_a_device(workers: int, device: torch.device) -> list[int]:
    """Return for each of so many workers how many of them compute on its device: all on a CPU, else by GPU."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return [len(range(place % devices, workers, devices)) for place in range(workers)]


class _Dispatch:
    """One phase's jobs at the workers, by the worker's place."""

    def __init__(self, jobs: dict[int, Job], fitter: GroupFitter) -> None:
        self._jobs, self._report, self._tracker = jobs, fitter.report, fitter.tracker
        self._tries: Counter[int] = Counter()
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

    def _take(self, place: int, answer: Any) -> None:  # noqa: ANN401
        match answer:
            case None:
                self._replace(place)
            case "done", fits:
                self._found |= fits
                del self._jobs[place]
            case "failed", error:
                raise error
            case "progress", *now if self._report is not None:
                self._report(*now)
            case "curve", *point if self._tracker is not None:
                self._tracker.curve(*point)
            case "log", name, level, text:
                logging.getLogger(name).log(level, "%s", text)

    def _replace(self, place: int) -> None:
        """Put a new worker in the place of one that has died; its fits are tried once more."""
        how, (_, spec, starts, _) = _pool[place].end(), self._jobs[place]
        _pool[place] = Worker(place)
        what = spec.label(starts)
        if self._tries[place] < 2:
            log.warning("the worker process of %s %s; these fits are tried once more", what, how)
            self._send(place)
        else:
            self._lost.append(f"the worker process of {what} {how}, twice")
            del self._jobs[place]


class _Pickler(pickle.Pickler):
    """Sends a split as the place of its images in a file, which the worker maps."""

    def reducer_override(self, given: object) -> Any:  # noqa: ANN401
        return (opened, _shared(given)) if isinstance(given, Split) else NotImplemented


def _shared(split: Split) -> tuple[Place, Tensor, str]:
    """Return a split as :func:`opened` takes it: images are in their own file if mapped, else in a temporary one."""
    fingerprint, own = split.fingerprint, place_of(split.images)
    if own is None and fingerprint not in _files:
        if len(_files) >= KEPT_FILES:
            _files.pop(next(iter(_files))).file.unlink(missing_ok=True)
        path = _temporary() / fingerprint
        split.images.contiguous().numpy().tofile(path)
        _files[fingerprint] = Place(path, 0, tuple(split.images.shape))
    return own or _files[fingerprint], split.labels, fingerprint


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
