"""What a run writes into its folder, and what it leaves there."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from records import a_record

from ensemble_transfer import layout
from ensemble_transfer.cli.command import interruptible
from ensemble_transfer.cli.finished import identity
from ensemble_transfer.cli.job import recorded
from ensemble_transfer.cli.main import main
from ensemble_transfer.errors import Interrupted, RunError, note_signal
from ensemble_transfer.report.record import Record


def record_of(folder, **changes):
    return json.loads((folder / "record.json").read_text()) | changes


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_never_replaced_by_another(cli, quick, run):
    before = contents(run)
    for typo, said in {
        "seed=-1": "seed=-1: must be 0 or more",
        "seed=1": "holds a finished run of other settings (shift, seed 0), which is not replaced; choose another "
        "folder with hydra.run.dir=...",
        "seed=[1]": "seed=[1]: must be a number",
        "dataset.target.seed=${nope}": "nope",
    }.items():
        code, _, err = cli("+strategy=shift", *quick, "hydra.run.dir=run", typo)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1, err
    assert contents(run) == before

    code, _, err = cli("-m", "+strategy=head", *quick, "hydra.sweep.dir=.", "hydra.sweep.subdir=run")
    assert code == 1
    assert "choose another folder with hydra.sweep.dir=..." in err
    assert contents(run) == before


def test_a_folder_belongs_to_one_run_at_a_time(cli, quick, run):
    before = contents(run)
    with layout.owned(run, "held"):
        code, _, err = cli("+strategy=shift", *quick, "hydra.run.dir=run")
    assert (code, err.count("\n"), contents(run)) == (2, 1, before)
    assert f"hydra.run.dir='{run}': is being written by another run that still goes on" in err
    assert cli("+strategy=shift", *quick, "hydra.run.dir=run")[0] == 0


def test_a_folder_that_another_process_holds_is_waited_for(tmp_path):
    script = "import sys; from pathlib import Path; from ensemble_transfer.layout import owned\n"
    script += "with owned(Path(sys.argv[1])): print('mine', flush=True)"
    with layout.owned(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1)
    assert other.communicate(timeout=60) == ("mine\n", None)


def test_a_folder_that_is_used_again_keeps_nothing_of_the_older_run(cli, quick, run):
    (run / "record.json").write_text(json.dumps(record_of(run, status="failed")))
    (run / "traceback.txt").touch()
    (run / "mine.txt").touch()
    assert cli("+strategy=head", *quick, "ensemble.size=1", "hydra.run.dir=run")[0] == 0
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    ensemble = {f"ensemble/{name}" for name in ("README.md", "ensemble.json", "member_00.safetensors")}
    ensemble.add("ensemble/calibration.safetensors")
    files = {"record.json", "predictions.npz", "summary.md", "errors.html", "ensemble_transfer.log", "mine.txt"}
    assert names == files | ensemble | {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}


def test_what_a_run_writes_is_what_is_cleared(run):
    layout.clear(run)
    left = {path.name for path in run.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "hydra.yaml", "overrides.yaml", "ensemble_transfer.log"}
    layout.clear(run)


def test_nothing_is_written_beside_the_record_of_a_run_with_wrong_settings(cli, tmp_path):
    assert cli("+strategy=shift", "seed=[1]", "hydra.run.dir=run")[0] == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]
    record = Record.load(tmp_path / "run" / "record.json")
    assert (record.status, record.seed, record.config["seed"]) == ("failed", None, [1])


def test_a_full_disk_is_one_line_that_names_the_file(cli, quick, run, monkeypatch):
    def full(path, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    config = Record.load(run / "record.json").config
    monkeypatch.setattr("ensemble_transfer.runs.conclusion.np.savez_compressed", full)
    code, _, err = cli("+strategy=shift", *quick, "hydra.run.dir=run")
    assert code == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert str(run / "predictions.npz") in err.splitlines()[-1]
    failed = Record.load(run / "record.json")
    assert failed.status == "failed"
    assert identity(failed.config) == identity(config)  # once it has finished elsewhere, it has not failed


def test_a_folder_that_cannot_be_written_is_one_line_that_names_it(cli, quick, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "run" and access(path, mode))
    code, _, err = cli("+strategy=head", *quick, "hydra.run.dir=run")
    assert code == 2
    assert err == f"error: hydra.run.dir='{tmp_path / 'run'}': must be a folder that can be written\n"


def test_the_environment_is_left_as_it_was(cli, monkeypatch):
    cli("+strategy=shift", "seed=-1")
    assert os.environ["HYDRA_FULL_ERROR"] == "0"
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["ensemble_transfer", "+strategy=shift", "seed=-1"])
        assert main() == 2
        assert "HYDRA_FULL_ERROR" not in os.environ
        assert sys.argv == ["ensemble_transfer", "+strategy=shift", "seed=-1"]


def test_what_fails_because_a_signal_came_was_interrupted(tmp_path):
    unfinished = a_record(status="failed")
    for error in (RuntimeError("a worker died"), RunError("a worker died")):
        with interruptible():
            note_signal(signal.SIGINT)
            with pytest.raises(Interrupted), recorded(tmp_path, unfinished):
                raise error
        assert Record.load(tmp_path / "record.json").status == "interrupted"
    with pytest.raises(RunError), recorded(tmp_path, unfinished):
        raise RunError("a worker died")
    assert Record.load(tmp_path / "record.json").status == "failed"
