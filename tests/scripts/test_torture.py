"""The torture script finds nothing here, and finds what it is to find."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "torture.py"


@pytest.fixture(scope="module")
def torture():
    spec = importlib.util.spec_from_file_location("torture", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["torture"]


def test_a_little_torture_finds_nothing(torture, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torture.py", "--kills", "1", "--flips", "3", "--inputs", "6", "--seed", "1"])
    code = torture.main()
    out, err = capsys.readouterr()
    assert code == 0, err
    rows = [line.rsplit(maxsplit=2) for line in out.splitlines()[1:]]
    assert rows[0] == ["kills", "1", "0"]
    assert rows[-1] == ["bad inputs", "6", "0"]
    assert len(rows) == 10
    assert all(row[1:] == ["3", "0"] for row in rows[1:-1])


@pytest.mark.parametrize(("read", "said"), [(Path.read_bytes, "accepted with another content"), (None, "TypeError")])
def test_what_accepts_a_damaged_file_or_breaks_on_it_is_found(torture, tmp_path, read, said):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    calls = []

    def reader(given):
        calls.append(given)
        return read(given) if read else (len(given.read_bytes().strip(b"\0")) and len(None))

    found = [torture.flip(tmp_path, "file", reader, random.Random(seed)) for seed in range(5)]
    assert any(said in (text or "") for text in found)
    assert path.read_bytes() == bytes(100)


@pytest.mark.parametrize(("setting", "value"), [("seed", "[1]"), ("dataset.target.seed", "${nope}"), ("seed", "it's")])
def test_a_bad_input_is_one_line(torture, tmp_path, setting, value):
    assert torture.mistype(setting, value, tmp_path / "inputs") is None


def test_an_input_that_breaks_is_found(torture, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("ensemble_transfer.cli.job.build_experiment", broken)
    assert "the run failed with KeyError" in (torture.mistype("seed", "1", tmp_path / "inputs") or "")
