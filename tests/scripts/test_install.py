"""What `make setup` installs with, and what uv is told. Programs in the place of uv and pip keep what they are told."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "install.py"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder on the path for programs, and the script with pip and environment in it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", ["install.py", "test", "--retries", "9"])
    script = runpy.run_path(str(SCRIPT))
    changed = {"BIN": tmp_path / "bin", "LOG": tmp_path / "log", "PIP": [str(tmp_path / "pip")], "IMPORTED": ()}
    script["main"].__globals__.update(changed)
    return SimpleNamespace(folder=tmp_path, main=script["main"], told=lambda: (tmp_path / "told").read_text())


def program(path, then="true"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" = config ] || echo {path.name} "$@" >> {path.parent}/told\n{then}\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("uv", "pip", "by"),
    [("true", "false", "uv"), ("echo no such index; false", "true", "pip"), (None, '[ "$4" != uv ]', "pip")],
    ids=["uv", "uv-fails", "uv-cannot-be-had"],
)
def test_uv_installs_and_pip_where_it_cannot(place, capsys, uv, pip, by):
    program(place.folder / "pip", f'[ "$1" = config ] || {pip}')
    if uv:
        program(place.folder / "uv", uv)
    assert place.main() == 0
    assert f"done by {by} in " in capsys.readouterr().out
    last = place.told().splitlines()[-1]
    assert last.startswith(f"{by} ")
    assert last.endswith("--constraint constraints.txt --retries 9 --editable .[test]")


def test_pip_gets_uv_where_it_is_not_on_the_path(place, capsys):
    program(place.folder / "bin" / "uv")
    got = place.folder / "bin" / "uv"
    hidden = got.rename(place.folder / "hidden")
    program(place.folder / "pip", f'[ "$4" != uv ] || mv {hidden} {got}')
    assert place.main() == 0
    assert "done by uv" in capsys.readouterr().out
    assert place.told() == "pip install --constraint constraints.txt uv\n"


def test_pip_installs_where_uv_is_not_wanted(place, capsys, monkeypatch):
    monkeypatch.setenv("UV", "")
    program(place.folder / "pip")
    program(place.folder / "uv")
    assert place.main() == 0
    assert "done by pip" in capsys.readouterr().out
    assert "uv" not in place.told()


def test_a_failure_names_the_log_and_shows_its_end(place, capsys):
    program(place.folder / "pip", '[ "$1" = config ] || { echo no space left; false; }')
    assert place.main() == 1
    assert f"the log is {place.folder / 'log'}, and ends with:" in (said := capsys.readouterr().out)
    assert "no space left" in said


def test_an_extra_that_is_not_there_is_refused_before_anything_is_installed(place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["install.py", "test,tset"])
    assert place.main() == 1
    assert "'tset'" in capsys.readouterr().out


def test_uv_is_told_what_pip_is_told(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a\nno-index = true\n[install]\nindex-url = https://b\n[download]\nindex-url = https://c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    script = runpy.run_path(str(SCRIPT))
    told = " ".join(script["handed_on"](script["pip_settings"]()))
    assert told.startswith("--no-index --index-url https://b ")
    assert "--find-links /one --find-links /two" in told
    monkeypatch.setenv("PIP_INDEX_URL", "https://d")
    assert "--index-url https://d " in " ".join(script["handed_on"](script["pip_settings"]()))
