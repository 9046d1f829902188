"""What commands leave behind when they end or are killed: no process, and no temporary file."""

import importlib.util
import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from forks import SMALL, Done, Forks

from ensemble_transfer.layout import clear

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")

QUICK = [*SMALL, "trainer.checkpoint_seconds=0.05"]
ENDLESS = ["recipe.ancestor.steps=1000000", "recipe.source.steps=0"]


class Job:
    """The command line in a session of its own, in which all that it starts stays."""

    def __init__(self, forks: Forks, folder: Path, *command: str) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.fork = forks.start(*command, cwd=folder, TMPDIR=str(self.temporary))

    def alive(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getsid(int(place.name)) == self.fork.pid and ") Z " not in (place / "stat").read_text():
                    found.append(int(place.name))
        return found

    def end(self) -> Done:
        """Wait for the end of all processes: of the command, and then of those that look for it every second."""
        done = self.fork.wait()
        deadline = time.monotonic() + 20
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.alive()
        return done

    def left(self) -> list[str]:
        """Return what is left in the temporary folder, but for torch's cache, which is one for all runs."""
        return [path.name for path in self.temporary.iterdir() if not path.name.startswith("torchinductor_")]


@pytest.fixture
def start(forks, tmp_path):
    jobs = []

    def start(*arguments: str, command: str | Path = "ensemble_transfer") -> Job:
        jobs.append(Job(forks, tmp_path, command, *arguments))
        return jobs[-1]

    yield start
    for number in (number for job in jobs for number in job.alive()):  # whatever became of the test
        os.kill(number, signal.SIGKILL)


def test_a_run_that_starts_again_removes_what_a_killed_one_was_writing(tmp_path):
    (tmp_path / "ensemble").mkdir()
    partial = [tmp_path / f".record.json.{uuid.uuid4().hex}", tmp_path / "ensemble" / f".a.b.{uuid.uuid4().hex}"]
    others = [tmp_path / ".mine", tmp_path / "notes.txt"]
    for path in (*partial, *others):
        path.touch()
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", "ensemble", "notes.txt"]


WORK = """
import sys, time
from pathlib import Path
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.training import workers

workers.start_workers(2)
workers._shared(Digits().load(8, 1).train)
Path("working").touch()
while not Path("enough").exists():
    time.sleep(0.01)
"""


def test_a_process_with_workers_leaves_no_process_and_no_file(start, tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    job = start(command=tmp_path / "work.py")
    job.fork.wait_for(tmp_path, "working")
    assert (len(job.alive()), len(job.left())) == (3, 1)
    (tmp_path / "enough").touch()
    assert (job.end().returncode, job.left()) == (0, [])


STARTS = {
    "workers": ["ensemble.lineage=independent", "trainer.workers=2", "hydra.run.dir=run"],
    "jobs": ["-m", "hydra/launcher=jobs", "seed=0,1", "hydra.sweep.dir=sweep"],
}


@pytest.mark.parametrize("kind", STARTS)
def test_workers_of_a_killed_run_and_jobs_of_a_killed_sweep_end_and_leave_no_file(start, tmp_path, kind):
    if kind == "jobs" and importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra_joblib_launcher is not installed")
    job = start("strategy=full", *QUICK, *ENDLESS, *STARTS[kind])
    job.fork.wait_for(tmp_path, "store/unfinished/*/last.ckpt")
    job.fork.send_signal(signal.SIGKILL)
    job.end()
    assert [name for name in job.left() if name.startswith("ensemble_transfer")] == []
