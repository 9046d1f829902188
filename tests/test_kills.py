"""Kills and concurrent jobs: whatever happens to the processes, the records are those of undisturbed runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ensemble_transfer.report.record import Record
from ensemble_transfer.training.store import CHECKPOINT

QUICK = [
    "ensemble.size=2",
    "backbone.options.channels=[4,8,8,8]",
    "backbone.options.stem_width=4",
    "dataset.image_size=8",
    *(f"dataset.target.{name}=40" for name in ("train", "validation", "test")),
    "recipe.ancestor.steps=30",
    *(f"recipe.{name}.steps=10" for name in ("source", "full", "tiny", "probe", "head")),
    "evaluation.diagnostics=false",
    "trainer.threads=1",
    "trainer.progress=false",
    "trainer.checkpoint_seconds=0.02",
]

SERVER = """
import json, os, sys
from ensemble_transfer.cli.main import main
import ensemble_transfer.cli.job, ensemble_transfer.report.plots

def job(folder, arguments):
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["ensemble_transfer", *arguments]
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    name, *given = json.loads(line)
    if name == "start":
        answer = os.fork() or job(*given)
    else:
        answer = os.waitstatus_to_exitcode(os.waitpid(*given, 0)[1])
    print(answer, flush=True)
"""


class Jobs:
    """Jobs in processes of their own, forked from one that has imported everything: they start at once."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, folder: Path, *arguments: str) -> int:
        """Start the command line in a folder and return the number of its process."""
        folder.mkdir(exist_ok=True)
        return self._ask("start", str(folder), arguments)

    def wait(self, job: int) -> int:
        """Wait for the end of a job and return its exit code, below 0 if it was killed."""
        return self._ask("wait", job)

    def _ask(self, *words: object) -> int:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def jobs():
    jobs = Jobs()
    yield jobs
    jobs.process.communicate()


def records(folder: Path) -> dict[str, dict]:
    """What is reproducible in the records of a folder, by their place in it."""
    paths = sorted(folder.rglob("record.json"))
    return {str(path.relative_to(folder)): Record.load(path).reproducible() for path in paths}


def test_9_a_run_killed_in_a_fit_goes_on_to_the_same_record(jobs, tmp_path):
    command = ["+strategy=shift", *QUICK, "recipe.ancestor.steps=200", "hydra.run.dir=run"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert jobs.wait(jobs.start(undisturbed, *command)) == 0

    job = jobs.start(killed, *command)
    deadline = time.monotonic() + 120
    while not (checkpoints := list(killed.glob(f"store/unfinished/*/{CHECKPOINT}"))) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(job, signal.SIGKILL)
    assert jobs.wait(job) == -signal.SIGKILL
    assert checkpoints, "no checkpoint was written"
    assert not (killed / "run" / "record.json").exists()

    assert jobs.wait(jobs.start(killed, *command)) == 0
    assert "going on with an interrupted fit at step" in (killed / "output.txt").read_text()
    assert records(killed) == records(undisturbed)
    assert not list(killed.glob("store/unfinished/*"))


def test_9_a_sweep_killed_at_any_moment_goes_on_to_the_same_records(jobs, tmp_path):
    command = ["-m", "+strategy=head,shift", "seed=0", *QUICK, "hydra.sweep.dir=sweep"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    assert jobs.wait(jobs.start(undisturbed, *command)) == 0
    seconds = time.monotonic() - started

    moments = random.Random(0)
    for _ in range(5):
        job = jobs.start(killed, *command)
        time.sleep(moments.uniform(0, seconds / 3))
        os.kill(job, signal.SIGKILL)
        jobs.wait(job)
    assert jobs.wait(jobs.start(killed, *command)) == 0, (killed / "output.txt").read_text()
    assert records(killed) == records(undisturbed)
    assert len(records(killed)) == 2
    assert not list(killed.glob("store/unfinished/*"))
    tables = [folder / "sweep" / "comparison" / "table.md" for folder in (undisturbed, killed)]
    assert [len(table.read_text().splitlines()) for table in tables] == [len(tables[0].read_text().splitlines())] * 2


def test_four_jobs_on_an_empty_store_train_every_fit_once(jobs, tmp_path):
    command = ["+strategy=shift", *QUICK, f"store.root={tmp_path / 'store'}", "hydra.run.dir=run"]
    folders = [tmp_path / str(index) for index in range(4)]
    started = [jobs.start(folder, *command) for folder in folders]
    assert [jobs.wait(job) for job in started] == [0] * 4
    found = [Record.load(folder / "run" / "record.json") for folder in folders]
    assert all(record.reproducible() == found[0].reproducible() for record in found)
    fits = {path.stem for path in tmp_path.glob("store/fits/*/*.safetensors")}
    trained = [fits - {fit["key"] for fit in record.reused_fits} for record in found]
    assert set().union(*trained) == fits
    assert sum(map(len, trained)) == len(fits), "a fit was trained twice"
