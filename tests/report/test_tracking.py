"""Runs are read back from W&B's own files, and from a server on loopback that may be silent or die."""

import contextlib
import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import SMALL
from PIL import Image
from records import a_record
from report import wandb_stub

from ensemble_transfer.cli.main import main
from ensemble_transfer.errors import SettingError
from ensemble_transfer.report.artifacts import artifacts_of
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.gallery import Shown, write_errors
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracked_run import TrackedRun
from ensemble_transfer.report.tracking import LoggerSettings, log_comparison, tracking
from ensemble_transfer.tensor_files import write_tensors

OFFLINE = LoggerSettings(kind="wandb")
ONLINE = LoggerSettings(kind="wandb", mode="online", finish_timeout=8.0)
ACCURACY = "target/test/ensemble/accuracy"
FINGERPRINT = "0123456789abcdef" * 4


def read_back(folder: Path, *options: str) -> str:
    file = next(folder.glob("wandb/offline-run-*/run-*.wandb"))
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", *options, file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def record(**changes: object) -> Record:
    cost = {"phases": {"tiny": {"steps": 20}}, "total": {"steps": 320}, "marginal": None}
    metrics = {ACCURACY: 0.875, "target/test/ensemble/nll": 0.5, "undefined": None}
    return a_record(**{"seed": 3, "dataset": "a -> b", "backbone": "net", "metrics": metrics, "cost": cost} | changes)


def a_run(folder: Path, **config: object) -> TrackedRun:
    return TrackedRun(folder, "name", "group", "shift", config)


def finished_run(folder: Path) -> Record:
    """Leave the files of a run that used the shift, and return its record."""
    (folder / "ensemble").mkdir()
    history = {"source": "a", "seed": 3, "target": "b", "strategy": "shift"}
    (folder / "ensemble" / "ensemble.json").write_text(json.dumps({"history": history}))
    write_tensors(folder / "ensemble" / "member_00.safetensors", {"w": torch.zeros(2)})
    header = {"donors": "0", "scale": "1.0", "source_ensemble": FINGERPRINT}
    write_tensors(folder / "shift.safetensors", {"w": torch.ones(2)}, header)
    record().save(folder)
    return record()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch):
    """Start the stub, and let a fresh W&B use it."""
    import wandb

    stub = wandb_stub.StubServer()
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", wandb_stub.KEY)
    wandb.teardown()
    yield stub
    stub.silent.clear()
    wandb.teardown()
    stub.stop()


def test_a_failed_run_is_closed_as_failed_and_the_next_holds_config_curves_metrics_cost_and_artifacts(tmp_path):
    broken, sound = tmp_path / "broken", tmp_path / "sound"
    for folder in (broken, sound):
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), tracking(OFFLINE, a_run(broken, seed=1)):
        _ = 1 / 0
    with tracking(OFFLINE, a_run(sound, seed=3)) as tracker:
        for step in (0, 10):
            tracker.curve("tiny", step, {0: 2.0 - step / 10, 1: 3.0 - step / 10})
        tracker.record(finished_run(sound))
    assert '"exit_code":1' in read_back(broken).replace(" ", "")
    compact = read_back(sound).replace(" ", "").replace("\\", "")
    for said in ('"strategy_name"', ACCURACY, "cost/phase/tiny/steps", "cost/total/steps", '"exit_code":0'):
        assert said in compact
    assert compact.count('"type":"history"') == 2
    for name in ("shift-shift-a-b-net-seed3", "ensemble-shift-a-b-net-seed3", "record-shift-a-b-net-seed3"):
        assert name in compact
    assert f"source-{FINGERPRINT[:12]}" not in compact  # cannot be consumed offline, and was not produced


def test_an_online_run_arrives_whole_and_its_artifacts_with_their_lineage(tmp_path, server, capfd):
    with tracking(ONLINE, TrackedRun(tmp_path, "shift, seed 3", "sweep", "shift", {"seed": 3})) as tracker:
        for step in (0, 10):
            tracker.curve("tiny", step, {0: 2.0 - step / 10, 1: 3.0 - step / 10})
        tracker.record(finished_run(tmp_path))
    (run,) = server.runs
    about = server.runs[run]
    assert (about["groupName"], about["jobType"], about["displayName"]) == ("sweep", "shift", "shift, seed 3")
    config = json.loads(about["config"])
    assert config["seed"]["value"] == 3
    assert config["strategy_name"]["value"] == "shift"
    rows = server.history(run)
    points = [(row["tiny/step"], row["tiny/loss/member_01"], row["tiny/loss/member_02"]) for row in rows]
    assert points == [(0, 2.0, 3.0), (10, 1.0, 2.0)]  # one row a step for both members
    summary = server.summary(run)
    assert summary["tiny/loss/member_01"] == {"min": 1, "last": 1}
    assert (summary[ACCURACY], summary["cost/phase/tiny/steps"], summary["status"]) == (0.875, 20, "finished")
    defined = [metric.get("1") or metric["2"] for metric in json.loads(about["config"])["_wandb"]["value"]["m"]]
    assert defined == ["tiny/step", "tiny/loss/*"]  # none at the end
    assert server.exit_codes == {run: 0}
    assert about["tags"] == ["shift", "no budget", "a -> b"]
    assert capfd.readouterr() == ("", "")

    types = {made["artifactCollectionName"]: made["artifactTypeName"] for made in server.artifacts}
    name = "shift-a-b-net-seed3"
    source = f"source-{FINGERPRINT[:12]}"
    assert types == {
        source: "ensemble",
        f"shift-{name}": "shift",
        f"ensemble-{name}": "ensemble",
        f"record-{name}": "record",
    }
    places = {made["artifactCollectionName"]: f"artifact-{i}" for i, made in enumerate(server.artifacts)}
    assert server.used == [places[source]]
    by_name = {made["artifactCollectionName"]: made for made in server.artifacts}
    assert by_name[source]["runName"] is None  # used, not produced
    assert by_name[f"shift-{name}"]["runName"] in server.runs
    assert json.loads(by_name[f"shift-{name}"]["metadata"])["source_ensemble"] == FINGERPRINT
    sent = server.uploads[f"{places[f'shift-{name}']}/shift.safetensors"]
    assert sent == (tmp_path / "shift.safetensors").read_bytes()
    assert f"{places[f'ensemble-{name}']}/member_00.safetensors" in server.uploads
    assert f"{places[f'record-{name}']}/record.json" in server.uploads


def test_a_run_is_tagged_with_strategy_budget_and_tasks(tmp_path, server):
    settings = LoggerSettings(kind="wandb", mode="online", finish_timeout=8.0, artifacts=False, tags=["mine", "shift"])
    about = TrackedRun(tmp_path, "name", "group", "shift", {"seed": 3, "budget": 2.0})
    finished_run(tmp_path)
    for _ in range(2):  # the second continues the first
        with tracking(settings, about) as tracker:
            assert tracker._run.tags == ("mine", "shift", "budget 2")
            tracker.record(record(dataset="a" * 70))
    (run,) = server.runs
    assert server.runs[run]["tags"] == ["mine", "shift", "budget 2", "a" * 64]
    assert not server.artifacts  # as the setting says


STEPS = (0, 10, 20, 30)


@pytest.mark.parametrize("restarted", [STEPS, STEPS[3:]])
def test_a_run_that_was_killed_goes_on_as_one_run(tmp_path, server, restarted):
    """A restarted run replays its curves from the store, or goes on at a checkpoint; each point arrives once."""
    about = a_run(tmp_path, seed=3)
    with contextlib.suppress(KeyboardInterrupt), tracking(ONLINE, about) as tracker:
        for step in STEPS[:3]:
            tracker.curve("tiny", step, {0: 2.0, 1: 3.0})
        raise KeyboardInterrupt
    assert list(server.exit_codes.values()) == [1]
    with tracking(ONLINE, about) as tracker:
        for step in restarted:
            tracker.curve("tiny", step, {0: 2.0, 1: 3.0})
        tracker.curve("tiny", 0, {2: 4.0})  # a member of another group, not seen before
        tracker.record(record())
    (run,) = server.runs
    steps = [row["tiny/step"] for row in server.history(run) if "tiny/loss/member_01" in row]
    assert steps == list(STEPS)
    assert [row["tiny/step"] for row in server.history(run) if "tiny/loss/member_03" in row] == [0]
    assert server.summary(run)[ACCURACY] == 0.875


def test_a_run_goes_on_only_in_its_folder_and_with_its_configuration(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    first = a_run(tmp_path, seed=3).id()
    assert first == a_run(tmp_path, seed=3, logger={"mode": "online"}).id()
    assert first != a_run(other, seed=3).id()
    assert first != a_run(tmp_path, seed=4).id()


def test_the_users_own_run_stays_open(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "own").mkdir()
    own = wandb.init(project="own", dir=tmp_path / "own", mode="offline")
    try:
        with tracking(OFFLINE, a_run(tmp_path)) as tracker:
            tracker.curve("tiny", 0, {0: 1.0})
        assert wandb.run is own
        own.log({"x": 1})
    finally:
        own.finish()
    theirs = read_back(tmp_path / "own")
    assert '"x"' in theirs
    assert "tiny" not in theirs
    assert '"tiny/loss/member_01"' in read_back(tmp_path)


def test_an_extension_consumes_the_shift_vector_that_it_applies(tmp_path, server):
    finished_run(tmp_path)
    with tracking(ONLINE, a_run(tmp_path)) as tracker:
        tracker.record(record(cost={"added": {"members": 1}, "phases": {}}))
    by_name = {made["artifactCollectionName"]: (i, made["runName"]) for i, made in enumerate(server.artifacts)}
    index, producer = by_name["shift-shift-a-b-net-seed3"]
    assert producer is None
    assert f"artifact-{index}" in server.used
    assert by_name["ensemble-shift-a-b-net-seed3"][1] in server.runs


def test_a_missing_key_is_one_clear_line(tmp_path, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(SettingError, match=r"^logger.mode='online': .*(API key|no key)[^\n]*$"):
        tracking(ONLINE, a_run(tmp_path)).__enter__()
    assert not server.runs


def test_a_server_that_does_not_answer_is_one_clear_line(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setattr("ensemble_transfer.machine.PATIENCE", 1.0)
    server.silent.set()
    said = f"the W&B server {server.url} cannot be reached"
    with pytest.raises(SettingError, match=rf"^logger.mode='online': {said}[^\n]*$"):
        tracking(ONLINE, a_run(tmp_path)).__enter__()
    assert server.operations == []
    log_comparison(ONLINE, tmp_path, "sweep")
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("ensemble_transfer")]
    assert "the comparison is not on W&B: " in line


@pytest.mark.parametrize("way", ["stop", "silence"])
def test_a_server_that_dies_costs_one_warning_and_seconds(tmp_path, server, monkeypatch, caplog, way):
    monkeypatch.setattr("ensemble_transfer.machine.PATIENCE", 1.0)
    settings = LoggerSettings(kind="wandb", mode="online", finish_timeout=30.0 if way == "stop" else 3.0)
    with caplog.at_level(logging.WARNING, "ensemble_transfer"), tracking(settings, a_run(tmp_path)) as tracker:
        tracker.curve("tiny", 0, {0: 2.0})
        server.stop() if way == "stop" else server.silent.set()
        tracker.curve("tiny", 10, {0: 1.0})
        start = time.monotonic()
        tracker.record(finished_run(tmp_path))
    assert time.monotonic() - start < 25
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("ensemble_transfer")]
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B is lost (the W&B server http://127.0.0.1:")
    assert list(Path(warnings[0].split("wandb sync ")[1].split("'")[0]).glob("*.wandb"))


def test_a_server_that_dies_in_training_does_not_cost_the_record(tmp_path, server, monkeypatch, capsys):
    rest = ["logger=wandb", "logger.mode=online", "logger.finish_timeout=3", "hydra.run.dir=run"]
    monkeypatch.setattr("ensemble_transfer.machine.PATIENCE", 1.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ensemble_transfer", "strategy=head", *SMALL, *rest])
    server.silent_from = "OrganizationCoreWeaveOrganizationID"  # the first thing after the start of a run
    assert main() == 0
    assert json.loads((tmp_path / "run" / "record.json").read_text())["status"] == "finished"
    assert (tmp_path / "run" / "summary.md").is_file()
    assert "".join(capsys.readouterr()).count("W&B is lost") == 1


def test_a_comparison_is_logged_with_its_table_and_figures(tmp_path, server):
    for figures in (tmp_path / "figures", tmp_path / "a_to_b" / "figures"):
        figures.mkdir(parents=True)
        Image.new("RGB", (1, 1)).save(figures / "pareto.png")
    (tmp_path / "table.csv").write_text("strategy,accuracy,cost\nfull,0.8,\nshift,0.9,3\n")
    log_comparison(ONLINE, tmp_path, "sweep")
    (run,) = server.runs
    assert (server.runs[run]["jobType"], server.runs[run]["groupName"]) == ("comparison", "sweep")
    summary = server.summary(run)
    assert (summary["comparison"]["nrows"], summary["comparison"]["ncols"]) == (2, 3)
    assert summary["figures/pareto"]["_type"] == summary["figures/a_to_b/pareto"]["_type"] == "image-file"
    assert any(name.endswith(".table.json") for name in server.uploads)


def test_the_errors_of_a_run_are_logged_as_a_table_of_pictures(tmp_path, server):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    shown = Shown((tmp_path / "one.png").read_bytes(), 7, "cat", "dog", 0.875)
    write_errors(tmp_path, "errors", [shown], [], 1)
    with tracking(replace(ONLINE, artifacts=False), a_run(tmp_path)) as tracker:
        tracker.record(record())
    (run,) = server.runs
    assert (server.summary(run)["errors"]["_type"], server.summary(run)["errors"]["nrows"]) == ("table-file", 1)
    table, *_ = [json.loads(sent) for name, sent in server.uploads.items() if name.endswith(".table.json")]
    assert table["columns"] == ["image", "truth", "predicted", "probability", "place"]
    [[picture, *about]] = table["data"]
    assert (picture["_type"], about) == ("image-file", ["cat", "dog", 0.875, 7])


def test_a_comparison_of_nothing_is_logged_without_a_table(tmp_path, server, caplog):
    Comparison.of([]).write(tmp_path)
    log_comparison(ONLINE, tmp_path, "sweep")
    (run,) = server.runs
    assert "comparison" not in server.summary(run)
    assert not [record for record in caplog.records if record.name.startswith("ensemble_transfer")]


def test_what_a_run_has_no_file_or_no_source_of_is_no_artifact(tmp_path):
    def kinds(record):
        return [item.type for item in artifacts_of(record, tmp_path)]

    finished_run(tmp_path)
    assert kinds(record()) == ["shift", "ensemble", "record", "ensemble"]
    assert kinds(record(dataset="b")) == ["shift", "ensemble", "record"]
    (tmp_path / "shift.safetensors").unlink()
    assert kinds(record(strategy="full")) == ["ensemble", "record"]


def test_no_logger_means_no_tracker_and_nothing_of_a_comparison(tmp_path):
    with tracking(LoggerSettings(), a_run(tmp_path)) as tracker:
        assert tracker is None
    for kind in ("none", "csv"):
        log_comparison(LoggerSettings(kind=kind), tmp_path, "sweep")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "value"), [("kind", "paper"), ("mode", "cloud"), ("project", ""), ("finish_timeout", 0.0)]
)
def test_settings_are_checked(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}: must"):
        LoggerSettings(**{setting: value})
