"""How far a sweep is, in one line, whatever launcher runs its jobs: read from the files that they leave."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ensemble_transfer.layout import HYDRA, RECORD


class SweepProgress:
    """Writes a line to standard error whenever a job has ended, while the block runs.

    A job runs once it has written its configuration, and has ended once it has left a record. So this works for jobs
    on other machines too, if they write into the same folder.

    Args:
        folder: The sweep's folder.
        jobs: Number of all jobs.
        places: Names of the folders of those that are still to run. One with a reference in it is not looked for.
        since: Time of change of a file, in nanoseconds, that no job of this sweep is older than.
    """

    def __init__(self, folder: Path, jobs: int, places: Sequence[str], since: int) -> None:
        self._jobs, self._since = jobs, since
        self._waiting = {folder / place for place in places}
        self._to_run, self._failed = len(places), 0
        self._start, self._stop = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Say what there is to do, and start to watch."""
        done = self._jobs - self._to_run
        _write(f"{done} of {self._jobs} done before" if done else f"0 of {self._jobs} done")
        if self._to_run:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how far it came."""
        self._stop.set()
        if self._to_run:
            self._thread.join()
            self.look()

    def look(self) -> None:
        """Look for jobs that have ended, and write a line if there are new ones."""
        before = len(self._waiting)
        for place in [*self._waiting]:
            if self._is_new(place / RECORD):
                self._waiting.remove(place)
                self._failed += not _has_finished(place / RECORD)
        if len(self._waiting) < before:
            _write(self.line())

    def line(self) -> str:
        """Return how many jobs are done, run and have failed, and about how long the rest takes."""
        ended, left = self._to_run - len(self._waiting), len(self._waiting)
        running = sum(self._is_new(place / HYDRA / "overrides.yaml") for place in self._waiting)
        parts = [f"{self._jobs - left - self._failed} of {self._jobs} done"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [f"{running} running"] if running else []
        parts += [f"about {_duration((time.monotonic() - self._start) / ended * left)} left"] if ended and left else []
        return ", ".join(parts)

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime_ns >= self._since
        except OSError:
            return False

    def _watch(self) -> None:
        while not self._stop.wait(max(1.0, len(self._waiting) / 100)):  # a shared file system is asked a file a job
            self.look()


def _has_finished(record: Path) -> bool:
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _duration(seconds: float) -> str:
    """Return a time in words, with about two digits: ``40 s``, ``12 min``, ``3.5 h``, ``2 days``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{round(seconds / 86400)} days"


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
