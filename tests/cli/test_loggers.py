"""Loggers besides W&B from the command line: options of the group ``logger``, and one that a user adds."""

import json

from ensemble_transfer.cli.extend import main


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
