"""The torture script finds nothing here, and finds what it is to find."""

import csv
import os
import random
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from records import a_record

from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.statistics import paired_difference

ROOT, SCRIPT = Path(__file__).parents[2], Path(__file__).with_name("torture.py")


@pytest.fixture(scope="module", autouse=True)
def _importable():
    sys.path.insert(0, str(SCRIPT.parent))
    yield
    sys.path.remove(str(SCRIPT.parent))
    for name in ("damage", "inputs", "kills", "results", "world"):
        sys.modules.pop(name, None)


def test_a_little_torture_finds_nothing(forks, tmp_path):
    given = ["--kills", "0", "--flips", "2", "--inputs", "3", "--no-results", "--seed", "1"]
    done = forks.run(SCRIPT, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in done.stdout.splitlines()[1:]}
    assert rows.pop("bad inputs") == ["3", "0"]
    assert len(rows) == 12
    assert all(row == ["2", "0"] for row in rows.values())


STOPPED = """
import os, signal, sys, time
from pathlib import Path

def stop(number, frame):
    {stop}

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
again = Path("begun").exists()
Path("begun").touch()
print("at work", file=sys.stderr, flush=True)
time.sleep(0.3)
Path("result").write_text({result})
"""


@pytest.mark.parametrize(
    ("stop", "result", "said"),
    [
        ("os._exit(128 + number)", "'whole'", None),
        ("os._exit(0)", "'whole'", "victim: SIGTERM at once: exit code 0 without a result"),
        ("raise ValueError", "'whole'", "victim: SIGTERM at once: exit code 1: "),
        ("os._exit(128 + number)", "f'again: {again}'", "the result differs from that of a command that nobody"),
    ],
)
def test_a_command_that_does_not_bear_a_kill_is_found(tmp_path, monkeypatch, stop, result, said):
    import kills

    victim = kills.Victim("victim", ["stopped"], lambda folder: (folder / "result").read_text())
    (tmp_path / "stopped.py").write_text(STOPPED.format(stop=stop, result=result))
    (tmp_path / "result").write_text("whole")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(kills, "VICTIMS", (victim,))
    (tmp_path / "kills").mkdir()
    found = kills.Kills(tmp_path / "kills", tmp_path, 60.0, random.Random(4)).kill()  # one signal and no other
    assert found is None if said is None else said in found


def test_inputs_that_break_or_are_wrongly_accepted_are_found(tmp_path, monkeypatch):
    from inputs import _judged, mistype

    job = tmp_path / "inputs" / "job"
    assert "accepted" in _judged("seed=-1", 0, "", job, impossible=True)
    assert "without a finished record" in _judged("seed=1", 0, "", job, impossible=False)

    def broken(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("ensemble_transfer.cli.build.build_experiment", broken)
    assert "the run failed with KeyError" in mistype("seed", "1", tmp_path / "inputs")


@pytest.mark.parametrize(("read", "said"), [(Path.read_bytes, "accepted with another content"), (None, "TypeError")])
def test_what_accepts_a_damaged_file_or_breaks_on_it_is_found(tmp_path, read, said):
    from damage import flip

    path = tmp_path / "file"
    path.write_bytes(bytes(100))

    def reader(given):
        return read(given) if read else (len(given.read_bytes().strip(b"\0")) and len(None))

    found = [flip(tmp_path, "file", reader, random.Random(seed)) for seed in range(5)]
    assert any(said in (text or "") for text in found)
    assert path.read_bytes() == bytes(100)


def test_a_metric_that_is_lacking_and_a_record_that_was_changed_are_found():
    from results import changed_by_writing, lacks

    shares, labels = np.full((2, 30, 3), 1 / 3), np.arange(30) % 3
    arrays = {"probabilities": shares, "labels": labels}
    arrays |= {f"validation/{name}": array for name, array in arrays.items()}
    found = evaluate(shares, labels, validation=(shares, labels))
    found = {f"target/test/{name}": value for name, value in found.items()}
    whole = found | dict.fromkeys(re.findall(r"`(shift/\w+)`", (ROOT / "docs" / "method.md").read_text()), 0.0)
    assert lacks(whole, arrays) is None
    for name in (next(iter(whole)), list(whole)[-1]):
        assert name in lacks({key: value for key, value in whole.items() if key != name}, arrays)
    assert "target/test/ensemble/nll" in lacks(whole | {"target/test/ensemble/nll": 0.5}, arrays)

    runs = [a_record(seed=seed, metrics=whole) for seed in range(2)]
    assert changed_by_writing(runs, runs) is None
    changed = [runs[0], a_record(seed=1, metrics=dict(list(whole.items())[:-1]))]
    assert "seed 1 is not the one that was written" in changed_by_writing(runs, changed)


def test_records_that_runs_give_back_are_kept(tmp_path):
    from inputs import mistype
    from results import _keeping

    kept = []
    with _keeping(kept):
        assert mistype("seed", "1", tmp_path) is None
    assert [record.seed for record in kept] == [1]


def test_pairs_of_different_seeds_are_found(tmp_path, monkeypatch):
    from results import mispaired

    accuracies = {"head": (0.5, 0.7, 0.6), "shift": (0.6, 0.9, 0.65)}
    runs = [
        a_record(name, seed, metrics={"target/test/ensemble/accuracy": value})
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]

    def table():
        Comparison.of(runs, "head").write(tmp_path)
        return list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))

    assert mispaired(table(), runs) is None

    def mixed(own, other):
        return paired_difference(own, {(seed + 1) % 3: value for seed, value in other.items()})

    monkeypatch.setattr("ensemble_transfer.report.comparison.paired_difference", mixed)
    assert "shift against head" in mispaired(table(), runs)


def test_a_file_that_is_not_written_in_one_move_is_found(tmp_path, monkeypatch):
    from results import torn, watched

    with watched() as opened:
        a_record().save(tmp_path)
    assert torn(opened) is None
    monkeypatch.setattr("ensemble_transfer.report.record.replacing", nullcontext)
    with watched() as opened:
        a_record().save(tmp_path)
    assert torn(opened) == f"{tmp_path / 'record.json'} is not written in one move"


SLEEPER = """
import subprocess, sys, tempfile
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) if {orphan} else None
{keep} = tempfile.mkdtemp()
"""


@pytest.mark.parametrize(("orphan", "said"), [(True, "processes go on after the"), (False, "files stay in the temp")])
def test_orphans_and_leftovers_are_found(tmp_path, monkeypatch, orphan, said):
    import world

    monkeypatch.setattr(world, "GRACE", 0.5)
    (tmp_path / "untidy.py").write_text(SLEEPER.format(orphan=orphan, keep="place"))
    command = world.Command(["untidy"], tmp_path)
    command.process.wait()
    found = command.left()
    for process in (found and command.marked()) or ():
        os.kill(process, 9)
    assert said in (found or "")
