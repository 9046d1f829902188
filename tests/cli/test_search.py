"""A search: trials are not evaluated on test, the winner is, and a search that was killed goes on."""

import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ensemble_transfer.cli.finished import winner
from ensemble_transfer.cli.job import _objective
from ensemble_transfer.errors import Interrupted
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.record import Record

NLL = "target/validation/calibrated/nll"
TRIALS = "not evaluated on test (evaluation.test=false): "


def test_a_trial_says_nothing_of_test_and_the_winner_is_the_best_on_validation_and_tested_once(cli, quick, tmp_path):
    assert cli("strategy=shift", *quick, "evaluation.test=false", "hydra.run.dir=run")[0] == 0
    trial, search = tmp_path / "run", tmp_path / "it's a search, x=1 (ü) [0]#"
    record = Record.load(trial / "record.json")
    assert not record.tested
    assert record.metrics[NLL] > 0
    assert not [key for key in record.metrics if key.startswith("target/test/")]
    summary = (trial / "summary.md").read_text()
    assert "ensemble on target's validation split" in summary
    assert "test split" not in summary
    assert "Not evaluated" in (trial / "ensemble" / "README.md").read_text()
    with np.load(trial / "predictions.npz") as arrays:
        assert {name for name in arrays if not name.startswith("source/")} == {
            "validation/probabilities",
            "validation/labels",
            "checksum",
        }

    comparison = Comparison.of([record, record])
    assert (comparison.rows, comparison.failures()) == ((), [f"{TRIALS}2 runs"])
    metrics = {"target/validation/ensemble/nll": 0.1, NLL: 2.0}
    assert _objective(record) == record.metrics[NLL] != record.metrics["target/validation/ensemble/nll"]
    assert _objective(replace(record, metrics=metrics)) == 2.0
    assert _objective(replace(record, metrics=metrics | {NLL: None})) == math.inf

    for name, change in {
        "0": {"metrics": {NLL: 2.0, "target/validation/ensemble/nll": 0.1}},
        "1": {},
        "2": {"metrics": {NLL: None}},
        "3": {"status": "failed", "metrics": {NLL: 0.1}},
        "4": {"config": {}, "metrics": {NLL: 0.1}},
    }.items():
        (search / name).mkdir(parents=True)
        replace(record, **({"metrics": {NLL: 1.9}} | change)).save(search / name)
    arguments = winner(search)
    assert [word.partition("=")[0] for word in arguments[-3:]] == ["evaluation.test", "hydra.run.dir", "hydra.mode"]
    assert cli(*arguments)[0] == 0
    tested = Record.load(search / "winner_1" / "record.json")
    assert tested.metrics["target/test/ensemble/nll"] > 0
    assert tested.metrics[NLL] == record.metrics[NLL]
    assert winner(search) is None
    assert winner(tmp_path / "store") is None


def test_the_test_split_is_not_read(cli, quick, monkeypatch):
    def read(*_):
        raise AssertionError("the test split was predicted")

    monkeypatch.setattr("ensemble_transfer.runs.conclusion.predict_soup", read)
    monkeypatch.setattr("ensemble_transfer.runs.evaluation.corrupt", read)
    given = [*quick, "evaluation.corruptions=[all]", "+task@evaluation.ood.high=mnist_high"]
    assert cli("strategy=head", *given, "evaluation.test=false", "hydra.run.dir=run")[0] == 0
    assert cli("strategy=head", *given, "hydra.run.dir=tested")[0] == 2


SWEEPER = "hydra_optuna_sweeper"


@pytest.mark.skipif(importlib.util.find_spec(f"hydra_plugins.{SWEEPER}") is None, reason=f"{SWEEPER} is not installed")
@pytest.mark.filterwarnings("ignore")  # of Optuna's own
def test_a_search_that_was_killed_goes_on_and_evaluates_its_winner(cli, quick, tmp_path, monkeypatch):
    own = [word for word in quick if "tiny.steps" not in word]
    command = ("-m", "hydra/sweeper=tune", "hydra.sweeper.n_trials=4", "strategy=shift", *own, "hydra.sweep.dir=s")
    run, started = Record.save, []

    def killed(record, folder):
        started.append(folder)
        if len(started) == 3:
            raise Interrupted(15)
        return run(record, folder)

    monkeypatch.setattr(Record, "save", killed)
    assert cli(*command)[0] == 143
    assert not list(tmp_path.glob("s/winner*"))
    code, out, err = cli(*command)
    assert code == 0, err
    assert f"{TRIALS}4 runs" in out

    records = {path.parent.name: Record.load(path) for path in tmp_path.glob("s/*/record.json")}
    trials = {name: record for name, record in records.items() if not record.tested and record.status == "finished"}
    assert set(trials) == {"0", "1", "3_2", "3_3"}  # the same two are proposed again, and not repeated
    assert len({json.dumps(record.config["strategy"]) for record in trials.values()}) == 4
    assert records["2"].config == records["3_2"].config, "the trial that was killed is tried again"
    best = min(trials, key=lambda name: trials[name].metrics[NLL])
    assert f"best_value: {trials[best].metrics[NLL]}" in (tmp_path / "s" / "optimization_results.yaml").read_text()
    assert set(records) - set(trials) == {"2", f"winner_{best}"}
    assert records[f"winner_{best}"].tested
