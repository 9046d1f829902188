"""Kills and concurrent jobs: whatever happens to the processes, the records are those of undisturbed runs."""

import random
import signal
import time
from pathlib import Path

import pytest
from forks import SMALL, Fork

from ensemble_transfer.report.record import Record
from ensemble_transfer.training.store import CHECKPOINT

QUICK = [*SMALL, "recipe.ancestor.steps=30", "trainer.checkpoint_seconds=0.02"]


@pytest.fixture
def start(forks):
    def start(folder: Path, *arguments: str) -> Fork:
        folder.mkdir(exist_ok=True)
        return forks.start("ensemble_transfer", *arguments, cwd=folder)

    return start


def records(folder: Path) -> dict[str, dict]:
    """What is reproducible in the records of a folder, by their place in it."""
    paths = sorted(folder.rglob("record.json"))
    return {str(path.relative_to(folder)): Record.load(path).reproducible() for path in paths}


def test_9_a_run_killed_in_a_fit_goes_on_to_the_record_of_jobs_that_train_every_fit_once(start, tmp_path):
    command = ["+strategy=shift", *QUICK, "recipe.ancestor.steps=100", "hydra.run.dir=run"]
    folders = [tmp_path / "one", tmp_path / "other"]
    (tmp_path / "store").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "store").symlink_to(tmp_path / "store")
    jobs = [start(folder, *command) for folder in folders]
    killed = tmp_path / "killed"
    job = start(killed, *command)
    job.wait_for(killed, f"store/unfinished/*/{CHECKPOINT}")
    job.send_signal(signal.SIGKILL)
    assert job.wait().returncode == -signal.SIGKILL
    assert not (killed / "run" / "record.json").exists()

    done = start(killed, *command).wait()
    assert done.returncode == 0, done.stderr
    assert "going on with an interrupted fit at step" in done.stdout + done.stderr
    assert not list(killed.glob("store/unfinished/*"))

    assert [job.wait().returncode for job in jobs] == [0, 0]
    one, other, again = (records(folder) for folder in (*folders, killed))
    assert one == other == again
    found = [Record.load(folder / "run" / "record.json") for folder in folders]
    fits = {path.stem for path in tmp_path.glob("store/fits/*/*.safetensors")}
    trained = [fits - {fit["key"] for fit in record.reused_fits} for record in found]
    assert set().union(*trained) == fits
    assert sum(map(len, trained)) == len(fits), "a fit was trained twice"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_fit_ends_a_run_as_interrupted(start, tmp_path, number, code):
    job = start(tmp_path, "+strategy=shift", *QUICK, "recipe.ancestor.steps=2000", "hydra.run.dir=run")
    job.wait_for(tmp_path, f"store/unfinished/*/{CHECKPOINT}")
    job.send_signal(number)
    assert job.wait().returncode == code
    assert Record.load(tmp_path / "run" / "record.json").status == "interrupted"


def test_9_a_sweep_killed_at_any_moment_goes_on_to_the_same_records(start, tmp_path):
    command = ["-m", "+strategy=head,shift", "seed=0", *QUICK, "hydra.sweep.dir=sweep"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    assert start(undisturbed, *command).wait().returncode == 0
    seconds = time.monotonic() - started

    moments = random.Random(0)
    for _ in range(2):
        job = start(killed, *command)
        time.sleep(moments.uniform(0, seconds / 3))
        job.send_signal(signal.SIGKILL)
        job.wait()
    done = start(killed, *command).wait()
    assert done.returncode == 0, done.stderr
    assert records(killed) == records(undisturbed)
    assert len(records(killed)) == 2
    assert not list(killed.glob("store/unfinished/*"))
    tables = [folder / "sweep" / "comparison" / "table.md" for folder in (undisturbed, killed)]
    assert [len(table.read_text().splitlines()) for table in tables] == [len(tables[0].read_text().splitlines())] * 2
