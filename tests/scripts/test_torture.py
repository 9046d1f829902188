"""The torture script finds nothing here, and finds what it is to find."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))
    for name in [name for name in sys.modules if name.split(".")[0] == "torturing"]:
        del sys.modules[name]


def torture(*arguments, cwd, mutant=""):
    """Run the script, in which, and in the commands of which, a mutant is at work."""
    (cwd / "mutants").mkdir()
    (cwd / "mutants" / "sitecustomize.py").write_text(mutant)
    paths = [str(cwd / "mutants"), *(path for path in sys.path if path and path != str(SCRIPTS))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(SCRIPTS / "torture.py"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()[1:]]
    return done.returncode, {name: (int(times), int(failed)) for name, times, failed in rows}, done.stderr


def test_a_little_torture_finds_nothing(tmp_path):
    code, rows, err = torture("--kills", "1", "--flips", "2", "--inputs", "5", "--seed", "1", cwd=tmp_path)
    assert code == 0, err
    assert rows.pop("kills") == (1, 0)
    assert rows.pop("bad inputs") == (5, 0)
    assert len(rows) == 12
    assert set(rows.values()) == {(2, 0)}


SUCCESS_ON_SIGTERM = """
import os
from ensemble_transfer.cli import command
command._stop = lambda number, frame: os._exit(0)
"""

REFUSES_NOTHING = """
from ensemble_transfer import errors
errors.require = lambda *_: None
"""

ANOTHER_RECORD = """
from dataclasses import replace
from ensemble_transfer.report.record import Record
load = Record.load.__func__
Record.load = classmethod(lambda cls, path: replace(load(cls, path), seed=999, metrics={}))
"""


@pytest.mark.parametrize(
    ("mutant", "arguments", "line", "said"),
    [
        (SUCCESS_ON_SIGTERM, ["--kills", "1"], "kills", "a run: SIGTERM at once: exit code 0 without a result"),
        (REFUSES_NOTHING, ["--inputs", "3"], "bad inputs", "bad inputs: seed=-1: exit code 0: accepted"),
        (ANOTHER_RECORD, ["--flips", "1"], "damaged records", "the record that was read is not the one in the file"),
    ],
)
def test_mutants_are_noticed(tmp_path, mutant, arguments, line, said):
    none = ["--kills", "0", "--flips", "0", "--inputs", "0"]
    code, rows, err = torture(*none, *arguments, cwd=tmp_path, mutant=mutant)
    assert code == 1
    assert rows[line][1] > 0
    assert said in err


@pytest.mark.parametrize(("read", "said"), [(Path.read_bytes, "accepted with another content"), (None, "TypeError")])
def test_what_accepts_a_damaged_file_or_breaks_on_it_is_found(tmp_path, read, said):
    from torturing.damage import flip

    path = tmp_path / "file"
    path.write_bytes(bytes(100))

    def reader(given):
        return read(given) if read else (len(given.read_bytes().strip(b"\0")) and len(None))

    found = [flip(tmp_path, "file", reader, random.Random(seed)) for seed in range(5)]
    assert any(said in (text or "") for text in found)
    assert path.read_bytes() == bytes(100)


SLEEPER = """
import subprocess, sys, tempfile
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) if {orphan} else None
{keep} = tempfile.mkdtemp()
"""


@pytest.mark.parametrize(("orphan", "said"), [(True, "processes go on after the"), (False, "files stay in the temp")])
def test_orphans_and_leftovers_are_found(tmp_path, monkeypatch, orphan, said):
    from torturing import world

    monkeypatch.setattr(world, "GRACE", 0.5)
    (tmp_path / "untidy.py").write_text(SLEEPER.format(orphan=orphan, keep="place"))
    command = world.Command(["untidy"], tmp_path)
    command.process.wait()
    found = command.left()
    for process in (found and command.marked()) or ():
        os.kill(process, 9)
    assert said in (found or "")
