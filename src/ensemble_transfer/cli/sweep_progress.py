"""How far a sweep is, in one line, whatever launcher runs its jobs: read from the files that they leave."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ensemble_transfer.cli.finished import status
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
        self._to_run, self._failed, self._interrupted = len(places), 0, 0
        self._start, self._stop = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Say what there is to do, and start to watch."""
        done = self._jobs - self._to_run
        sys.stderr.write(f"{done} of {self._jobs} done{' before' if done else ''}\n")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Say how far it came."""
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Look for jobs that have ended, and write a line if there are new ones."""
        ended = [place for place in self._waiting if self._is_new(place / RECORD)]
        self._waiting.difference_update(ended)
        self._failed += sum(status(place / RECORD) == "failed" for place in ended)
        self._interrupted += sum(status(place / RECORD) == "interrupted" for place in ended)
        if ended:
            sys.stderr.write(f"{self.line()}\n")
            sys.stderr.flush()

    def line(self) -> str:
        """Return how many jobs are done, run and have failed, and about how long the rest takes."""
        ended, left = self._to_run - len(self._waiting), len(self._waiting)
        running = sum(self._is_new(place / HYDRA / "overrides.yaml") for place in self._waiting)
        counts = {"failed": self._failed, "interrupted": self._interrupted, "running": running}
        parts = [f"{self._jobs - left - self._failed - self._interrupted} of {self._jobs} done"]
        parts += [f"{number} {what}" for what, number in counts.items() if number]
        minutes = (time.monotonic() - self._start) / max(1, ended) * left / 60
        about = f"{max(1, round(minutes))} min" if minutes < 90 else f"{minutes / 60:.1f} h"
        return ", ".join([*parts, *([f"about {about} left"] if ended and left else [])])

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime_ns >= self._since
        except OSError:
            return False

    def _watch(self) -> None:
        while not self._stop.wait(max(1.0, len(self._waiting) / 100)):  # a shared file system is asked a file a job
            self.look()
