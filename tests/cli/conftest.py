"""The command line as a function, and runs that have finished."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forks import SMALL
from hydra.core.global_hydra import GlobalHydra

from ensemble_transfer.cli.main import main
from ensemble_transfer.layout import checksum


@pytest.fixture(scope="session", autouse=True)
def _timed_shortly():
    """Let a run find the seconds of a fine-tuning in two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemble_transfer.runs.costs.WARM", 1)
        patch.setattr("ensemble_transfer.runs.costs.TIMED", 3)
        yield


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; return exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_in(tmp_path, arguments, monkeypatch)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def run_in(folder: Path, arguments: Sequence[str], patch: pytest.MonkeyPatch) -> int:
    patch.chdir(folder)
    patch.setenv("HYDRA_FULL_ERROR", "0")
    patch.setattr(sys, "argv", ["ensemble_transfer", *arguments])
    GlobalHydra.instance().clear()
    return main()


@pytest.fixture(scope="session")
def quick() -> list[str]:
    return list(SMALL)


@pytest.fixture(scope="session")
def finished_shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of shift and its store; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        assert run_in(folder, ["+strategy=shift", *SMALL, "hydra.run.dir=run"], patch) == 0
    return folder


@pytest.fixture
def run(finished_shift, tmp_path, monkeypatch):
    """A finished run of shift as ``run`` in the working folder."""
    shutil.copytree(finished_shift, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture(scope="session")
def changed():
    """Change the record of a run, as somebody may who sends it."""

    def changed(run: Path, change: Callable[[dict], object]) -> None:
        data = json.loads((run / "record.json").read_text())
        change(data)
        (run / "record.json").write_text(json.dumps(data | {"checksum": checksum(data)}))

    return changed


@pytest.fixture
def undrawn(monkeypatch):
    """Draw no figures, but remember where they were to go, and whether they were to be of several tasks."""
    from ensemble_transfer.report import plots

    drawn = {}

    def draw(rows, folder, across=False, baseline=None):
        folder.mkdir(parents=True, exist_ok=True)
        drawn[folder] = across
        return []

    monkeypatch.setattr(plots, "draw", draw)
    return drawn
