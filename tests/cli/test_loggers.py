"""Loggers besides W&B from the command line: options of the group ``logger``, and one that a user adds."""

import csv
import json

import pytest

from ensemble_transfer.cli.extend import main


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def named(path):
    return next(float(row["value"]) for row in rows(path) if row["name"] == "target/test/ensemble/accuracy")


def test_a_run_is_logged_as_a_table(cli, quick, tmp_path):
    folder = tmp_path / "run" / "csv"
    code, _, err = cli("logger=csv", "+strategy=full", *quick, "hydra.run.dir=run")
    assert code == 0, err
    logged = rows(folder / "metrics.csv")
    steps = [int(row["step"]) for row in logged if row["full/loss/member_01"] and row["full/loss/member_02"]]
    assert steps == list(range(5))
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    accuracy = record["metrics"]["target/test/ensemble/accuracy"]
    assert named(folder / "final.csv") == pytest.approx(accuracy)
    last = [row for row in logged if row["full/loss/member_01"]][-1]
    assert float(last["full/lr"]) > 0
    assert float(last["full/validation_loss/member_02"]) > 0
    assert len(logged[0]) < 20
    assert "lr: 0.01" in (folder / "hparams.yaml").read_text()


def test_mistakes_are_one_line(cli, quick):
    own = "logger.kind=lightning"
    for overrides, line in (
        (["logger=paper"], "logger='paper': must be one of csv, none, tensorboard, wandb"),
        (["logger.kind=paper"], "logger.kind='paper': must be one of none, wandb, csv, tensorboard, lightning"),
        ([own], "logger.lightning=None: must be a Lightning logger with kind=lightning"),
        ([own, "logger.lightning={_target_: nowhere.Logger}"], "logger.lightning._target_='nowhere.Logger': is not a "),
        ([own, "logger.lightning={_target_: pathlib.Path}"], "='pathlib.Path': must be a Lightning logger"),
    ):
        code, _, err = cli("+strategy=full", *quick, *overrides, "hydra.run.dir=run")
        assert code == 2
        assert line in err
        assert len(err.splitlines()) == 1


def test_an_extension_makes_no_logger_and_talks_to_no_server_that_a_record_names(run, changed, tmp_path, monkeypatch):
    name = "pytorch_lightning.loggers.CSVLogger"
    own = {"kind": "lightning", "lightning": {"_target_": name, "save_dir": "mine"}}
    asked = []
    monkeypatch.setattr("ensemble_transfer.report.tracking._start", lambda *settings: asked.append(settings))
    add = ["run", "ensemble.add=1"]
    for logger in (own, {"kind": "wandb", "mode": "online", "entity": "them", "lightning": None}):
        changed(run, lambda data, logger=logger: data["config"]["logger"].update(logger))
        assert main(add) == 0
    assert not asked
    assert not (tmp_path / "mine").exists()
    record = json.loads((run / "extended_3" / "record.json").read_text())
    assert record["config"]["logger"] == {"kind": "none"}
    given = ["logger.kind=lightning", f"logger.lightning._target_={name}", "logger.lightning.save_dir=mine"]
    assert main([*add, *given, "--output", "with"]) == 0
    assert list((tmp_path / "mine").rglob("metrics.csv"))
