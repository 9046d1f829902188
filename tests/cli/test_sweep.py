"""A sweep that is started again goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import a_record

from ensemble_transfer.cli.finished import finished_in, identity
from ensemble_transfer.cli.sweep import folder_of
from ensemble_transfer.report.record import Record

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_same_overrides_find_the_same_folder():
    once = folder_of(["strategy=full,shift", "seed=0,1"])
    assert once == folder_of(["seed=0,1", "strategy=full,shift"])
    assert once != folder_of(["strategy=full,shift", "seed=0,2"])
    assert once != folder_of(["strategy=full,shift", "seed=0,1", "~evaluation.severities"])


CONFIG = {
    "seed": 0,
    "strategy": {"donors": 1},
    "trainer": {"precision": "32-true", "threads": 1},
    "store": {"root": "a"},
}


def saved(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    a_record(**{"config": CONFIG} | changes).save(folder)


def test_a_finished_job_is_recognised_by_what_it_computes(tmp_path):
    saved(tmp_path / "7")
    saved(tmp_path / "0", status="failed", config=CONFIG | {"seed": 1})
    saved(tmp_path / "1", config=CONFIG | {"seed": 2})
    (tmp_path / "1" / "record.json").write_text('{"schema_version": 1, "status"')
    for changed, same in (
        ({}, True),
        ({"seed": 1}, False),
        ({"seed": 2}, False),
        ({"strategy": {"donors": 2}}, False),
        ({"new": 1}, False),
    ):
        assert (identity(CONFIG | changed) in finished_in(tmp_path)) == same, changed


def test_a_sweep_ends_with_a_table_over_seeds_and_repeats_what_failed_or_is_missing_alone(cli, quick, tmp_path):
    sweep = ("-m", "+strategy=head,full", "seed=0,1,0", *quick)
    code, out, err = cli(*sweep)
    assert code == 0, err
    lines = err.splitlines()
    assert lines[0].startswith("sweep of 4 jobs in ")  # the same job twice is one
    assert (lines[1], lines[-1]) == ("0 of 4 done", "4 of 4 done")
    jobs = [f"{strategy}, seed {seed}" for strategy in ("head", "full") for seed in (0, 1)]
    assert [line.partition(" ")[2].partition(": ")[0] for line in lines if "accuracy" in line] == jobs
    assert all(", seed" in line or " done" in line for line in lines[1:])

    records = sorted((tmp_path / "multirun").glob("strategy-head-full-seed-0-1-0-*/*/record.json"))
    assert len(records) == 4
    assert "Written to" not in out
    assert "Written to" in records[0].with_name("summary.md").read_text()
    accuracies = [Record.load(path).metrics["target/test/ensemble/accuracy"] for path in records[:2]]
    heading, head, _ = (records[0].parents[1] / "comparison" / "table.csv").read_text().splitlines()
    assert heading.startswith("strategy,n,seeds,accuracy mean,accuracy std")
    assert head.split(",")[:3] == ["head", "2", "0 1"]
    expected = [np.mean(accuracies), np.std(accuracies, ddof=1)]
    assert list(map(float, head.split(",")[3:5])) == pytest.approx(expected)
    assert f"{np.mean(accuracies):.3f}" in out

    records[1].unlink()
    replace(Record.load(records[2]), status="failed", error="the disk was full").save(records[2].parent)
    written = {path: path.stat().st_mtime_ns for path in (records[0], records[3])}

    code, again, err = cli(*sweep)
    assert code == 0
    assert "2 of 4 done before" in err
    assert err.count("accuracy") == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [Record.load(path).status for path in records] == ["finished"] * 4
    assert again.splitlines()[-12:] == out.splitlines()[-12:]
    code, _, err = cli(*sweep)
    assert (code, err.splitlines()[1:]) == (0, ["4 of 4 done before"])


def test_a_sweep_goes_on_in_any_order_and_with_further_seeds_in_one_folder(cli, quick, tmp_path):
    sweep = ["-m", *quick, "hydra.sweep.dir=s"]
    assert cli(*sweep, "+strategy=head,few", "seed=0")[0] == 0
    code, _, err = cli(*sweep, "seed=0,1", "+strategy=few,head")
    assert (code, err.splitlines()[1]) == (0, "2 of 4 done before"), err
    ran = {(r.strategy, r.seed) for r in map(Record.load, tmp_path.glob("s/*/record.json")) if r.status == "finished"}
    assert ran == {(strategy, seed) for strategy in ("head", "few") for seed in (0, 1)}
    assert len(list(tmp_path.glob("s/*/record.json"))) == 4


def test_jobs_that_differ_in_threads_alone_are_jobs_of_their_own(cli, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)  # they would wait for each other
    sweep = ["-m", "strategy=head", "seed=0", *quick, "hydra.sweep.dir=s"]
    assert cli(*sweep, "trainer.threads=2")[0] == 0
    assert "1 of 2 done" in cli(*sweep, "trainer.threads=1,2")[2]
    ran = [Record.load(path).config["trainer"]["threads"] for path in tmp_path.glob("s/*/record.json")]
    assert sorted(ran) == [1, 2]
    assert "1 of 1 done before" in cli(*sweep, "trainer.threads=3")[2]  # the result is there


def test_jobs_in_nested_folders_are_found_and_runs_within_runs_are_not(tmp_path):
    saved(tmp_path / "path=data" / "photos,seed=0")
    assert identity(CONFIG) in finished_in(tmp_path)
    saved(tmp_path / "path=data" / "photos,seed=0" / "rivals" / "few", config=CONFIG | {"seed": 5})
    assert list(*finished_in(tmp_path).values()) == [tmp_path / "path=data" / "photos,seed=0" / "record.json"]


def test_the_comparison_of_a_logged_sweep_is_logged_and_a_bad_logger_is_one_line(cli, quick, tmp_path, monkeypatch):
    code, _, err = cli("-m", "+strategy=head", "seed=0", "logger=wandb", "logger.mode=nope")
    assert code == 1
    assert "error: logger.mode='nope': must be one of offline, online" in err
    assert "Traceback" not in err
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    code, _, err = cli("-m", "+strategy=head", "seed=0", "logger=wandb", *quick, "hydra.sweep.dir=s")
    assert code == 0, err
    assert len(list(tmp_path.glob("s/0/wandb/offline-run-*"))) == 1
    assert len(list(tmp_path.glob("s/comparison/wandb/offline-run-*"))) == 1


def test_a_sweep_may_stop_at_its_first_failure(cli, quick, tmp_path):
    sweep = ["-m", "strategy=head", "seed=0,-1,1", *quick, "hydra.sweep.dir=s"]
    code, out, err = cli(*sweep, "sweep.stop_at_failure=true")
    assert code == 1
    errors = [line for line in err.splitlines() if "rror" in line or "stop" in line]
    assert errors == [
        "error: seed=-1: must be 0 or more (job 1)",
        "stopped: sweep.stop_at_failure=true; the same command goes on where this one stopped",
    ]
    assert "failed: head, digits_to_mnist, seed -1: seed=-1: must be 0 or more" in out
    assert {path.parent.name for path in (tmp_path / "s").glob("*/record.json")} == {"0", "1"}
    assert not (tmp_path / "s" / ".stopped").exists()
    finished, failed = (Record.load(tmp_path / "s" / job / "record.json") for job in "01")
    assert finished.status == "finished"
    assert (failed.status, failed.error) == ("failed", "seed=-1: must be 0 or more")

    assert cli(*sweep)[0] == 1
    assert Record.load(tmp_path / "s" / "2" / "record.json").status == "finished"
