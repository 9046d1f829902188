"""Runs logged offline are read back from W&B's own files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble_transfer.records import Record
from ensemble_transfer.report.tracking import LoggerSettings, tracking

OFFLINE = LoggerSettings(kind="wandb")


def read_back(folder: Path, *options: str) -> str:
    file = next(folder.glob("wandb/offline-run-*/run-*.wandb"))
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", *options, file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def record(**changes: object) -> Record:
    about = {"status": "finished", "strategy": "shift", "seed": 3, "dataset": "a -> b", "backbone": "net"}
    cost = {"phases": {"tiny": {"steps": 20}}, "total": {"steps": 320}, "marginal": None}
    metrics = {"target/test/ensemble/accuracy": 0.875, "undefined": None}
    return Record(**about | {"ensemble": {"size": 2}, "metrics": metrics, "cost": cost} | changes)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def test_an_offline_run_holds_config_curves_metrics_and_cost(tmp_path):
    with tracking(OFFLINE, {"seed": 3}, tmp_path, "shift, seed 3", "sweep") as tracker:
        for step in (0, 10):
            tracker.curve("tiny", 0, step, 2.0 - step / 10)
            tracker.curve("tiny", 1, step, 3.0 - step / 10)
        tracker.record(record())
    summary = json.loads(read_back(tmp_path, "--summary"))
    assert summary["config"]["seed"] == 3
    text = json.dumps(summary)
    for key, value in (
        ("target/test/ensemble/accuracy", 0.875),
        ("cost/phase/tiny/steps", 20),
        ("cost/total/steps", 320),
        ("tiny/loss/member_01", 1),
        ("tiny/loss/member_02", 2),
    ):
        assert f'"{key}": {value}' in text
    history = [line for line in read_back(tmp_path).splitlines() if '"type":"history"' in line]
    assert len(history) == 4
    assert '"exit_code":1' not in read_back(tmp_path).replace(" ", "")


def test_a_failed_run_is_closed_as_failed_and_the_next_starts_afresh(tmp_path):
    broken, sound = tmp_path / "broken", tmp_path / "sound"
    for folder in (broken, sound):
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), tracking(OFFLINE, {"seed": 1}, broken, "one", None):
        _ = 1 / 0
    with tracking(OFFLINE, {"seed": 2}, sound, "two", None) as tracker:
        tracker.record(record())
    assert '"exit_code":1' in read_back(broken).replace(" ", "")
    assert json.loads(read_back(sound, "--summary"))["config"]["seed"] == 2


def test_no_logger_means_no_tracker(tmp_path):
    with tracking(LoggerSettings(), {}, tmp_path, "name", None) as tracker:
        assert tracker is None
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("ensemble_transfer.report.tracking._server", lambda: "http://127.0.0.1:9")
    online = LoggerSettings(kind="wandb", mode="online")
    with pytest.raises(ValueError, match=r"logger.mode='online': the W&B server http://127.0.0.1:9 cannot be reached"):
        tracking(online, {}, tmp_path, "name", None).__enter__()


@pytest.mark.parametrize(("setting", "value"), [("kind", "csv"), ("mode", "cloud"), ("project", "")])
def test_settings_are_checked(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}: must"):
        LoggerSettings(**{setting: value})
