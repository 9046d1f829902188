"""CSV, TensorBoard and a logger of the user's: what they hold is read back from their files."""

import csv
import logging
import math
from dataclasses import replace

import pytest
from records import a_record

from ensemble_transfer.errors import SettingError
from ensemble_transfer.report.tracked_run import TrackedRun, scalars
from ensemble_transfer.report.tracking import LoggerSettings, log_comparison, tracking

ACCURACY = "target/test/ensemble/accuracy"
CONFIG = {"seed": 3, "recipe": {"tiny": {"lr": 0.5}}, "trainer": {"callbacks": []}}


def record():
    cost = {"phases": {"tiny": {"steps": 20}}, "total": {"steps": 320}, "marginal": None}
    return a_record(metrics={ACCURACY: 0.875, "undefined": None, "nan": math.nan}, cost=cost)


def track(settings, folder, steps=(0, 10)):
    with tracking(settings, TrackedRun(folder, "name", "group", "shift", CONFIG)) as tracker:
        for phase in ("full", "tiny"):
            for step in steps:
                tracker.curve(phase, step, {0: 2.0 - step / 10, 1: 3.0 - step / 10})
        written = folder / "csv" / "metrics.csv"
        assert settings.kind != "csv" or "member_02" in written.read_text()  # whatever happens to the run from here on
        tracker.record(record())


def test_csv_is_one_table_with_a_row_a_step_for_all_members(tmp_path):
    for _ in range(2):  # a run that starts again replaces what it wrote
        track(LoggerSettings("csv"), tmp_path)
    names = ["final.csv", "hparams.yaml", "metrics.csv"]
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == names
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == [
        {"step": 0, "full/loss/member_01": 2, "full/loss/member_02": 3},
        {"step": 10, "full/loss/member_01": 1, "full/loss/member_02": 2},
        {"step": 0, "tiny/loss/member_01": 2, "tiny/loss/member_02": 3},
        {"step": 10, "tiny/loss/member_01": 1, "tiny/loss/member_02": 2},
    ]
    with (tmp_path / "csv" / "final.csv").open(newline="") as file:
        final = list(csv.reader(file))
    assert final[0] == ["name", "value"]
    assert {name: float(value) for name, value in final[1:]} == {
        ACCURACY: 0.875,
        "cost/total/steps": 320,
        "cost/phase/tiny/steps": 20,
    }
    assert "lr: 0.5" in (tmp_path / "csv" / "hparams.yaml").read_text()


def test_a_phase_in_which_members_are_trained_again_has_a_number_then(tmp_path):
    with tracking(LoggerSettings("csv"), TrackedRun(tmp_path, "name", "group", "few", CONFIG)) as tracker:
        for losses in ({0: 2.0}, {1: 3.0}, {0: 1.5, 1: 2.5}, {0: 1.0}):  # the first two are one fit of two members
            for step in (0, 10):
                tracker.curve("cycle", step, losses, {"lr": 0.1})
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        rows = [{name for name, value in row.items() if value and "loss" in name} for row in csv.DictReader(file)]
    assert rows[::2] == [
        {"cycle/loss/member_01"},
        {"cycle/loss/member_02"},
        {"cycle_2/loss/member_01", "cycle_2/loss/member_02"},
        {"cycle_3/loss/member_01"},
    ]
    assert rows[1::2] == rows[::2]


def test_tensorboard_reads_curves_and_final_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    for _ in range(2):
        track(LoggerSettings("tensorboard"), tmp_path)
    [events] = (tmp_path / "tensorboard").glob("events.*")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(events))
    found.Reload()
    points = [(point.step, point.value) for point in found.Scalars("tiny/loss/member_02")]
    assert points == [(0, 3.0), (10, 2.0)]
    [point] = found.Scalars(ACCURACY)
    assert point.value == 0.875
    curves = {f"{phase}/loss/member_0{member}" for phase in ("full", "tiny") for member in (1, 2)}
    assert set(found.Tags()["scalars"]) == curves | {ACCURACY}
    assert "cost/phase/tiny/steps,20" in (tmp_path / "tensorboard" / "final.csv").read_text()
    assert "_hparams_/session_start_info" in found.PluginTagToContent("hparams")


class Own:
    def __init__(self, fails=False):
        self.said, self.fails = [], fails

    def log_hyperparams(self, params):
        self.said.append(params)

    def log_metrics(self, metrics, step=None):
        if self.fails:
            raise ConnectionError("no\nserver")
        self.said.append((step, metrics))

    def save(self):
        pass

    def finalize(self, status):
        self.said.append(status)


def test_a_logger_of_ones_own_gets_everything(tmp_path):
    own = Own()
    track(LoggerSettings("lightning", lightning=own), tmp_path, steps=(5,))
    assert own.said[0] == CONFIG
    assert own.said[1] == (5, {"full/loss/member_01": 1.5, "full/loss/member_02": 2.5})
    assert own.said[3][1][ACCURACY] == 0.875
    assert own.said[4] == "success"
    failed = Own()
    with (
        pytest.raises(ZeroDivisionError),
        tracking(LoggerSettings("lightning", lightning=failed), TrackedRun(tmp_path, "", "", "", {})),
    ):
        _ = 1 / 0
    assert failed.said == [{}, "failed"]


def test_a_logger_that_fails_costs_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ensemble_transfer"):
        track(LoggerSettings("lightning", lightning=Own(fails=True)), tmp_path)
    assert [message.getMessage() for message in caplog.records if message.name.startswith("ensemble_transfer")] == [
        "Own is lost (no server); the run continues without it"
    ]


def test_mistakes_are_one_line(monkeypatch):
    with pytest.raises(SettingError, match="and null with another kind"):
        LoggerSettings("csv", lightning=Own())
    monkeypatch.setattr("ensemble_transfer.training.loggers.find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"missing: pip install tensorboard$"):
        LoggerSettings("tensorboard")


def test_a_comparison_is_for_wandb_alone(tmp_path):
    (tmp_path / "table.csv").write_text("a\n1\n")
    log_comparison(LoggerSettings("lightning", lightning=Own()), tmp_path, "sweep")


def test_the_cost_of_added_members_is_numbers_too():
    added = {"members": 1, "phases": {"tiny": {"steps": 3}}, "total": {"steps": 3}}
    found = scalars(replace(record(), cost=record().cost | {"added": added}))
    assert found["cost/added/total/steps"] == 3
    assert not any(isinstance(value, dict) for value in found.values())
