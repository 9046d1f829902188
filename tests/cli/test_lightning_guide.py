"""The snippets and commands of the guide to Lightning run as they are, the commands with a small network."""

import csv
import inspect
import re
import shlex
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.runs.presets import conf_folder
from ensemble_transfer.training.settings import TrainerSettings

GUIDE = Path(__file__).parents[2] / "docs" / "lightning.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def command(word):
    [line] = [line for line in TEXT.splitlines() if line.startswith("    python -m ") and word in line]
    return shlex.split(line)[3:]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)")
def test_an_ensemble_under_ones_own_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(blocks("python")[0], found)
    assert found["trainer"].global_step == 60
    assert found["probabilities"].shape == (3, len(found["target"].test), 10)
    assert Ensemble.load(tmp_path / "fine_tuned").fingerprint == found["ensemble"].fingerprint
    said = set(re.findall(r"`((?:member|ensemble)/\w+)`", TEXT))
    assert {f"{split}/{name}" for split in ("train", "validation") for name in said} <= set(
        found["trainer"].callback_metrics
    )


def test_a_callback_in_a_run_that_is_logged_as_a_table(cli, quick, monkeypatch, tmp_path):
    module = types.ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)
    exec(blocks("python")[1], module.__dict__)
    seen = []
    module.StopBelow.on_train_start = lambda *given: seen.append(given[-1].recipe.steps)
    long = [option for option in quick if not option.startswith("recipe.ancestor")]
    code, _, err = cli(*command("StopBelow"), *long, "recipe.ancestor.steps=400", "hydra.run.dir=run", "logger=csv")
    assert code == 0, err
    assert seen == [400, 3, 5]  # ancestor, source, full
    assert "none is kept in the store" in err
    assert not list((tmp_path / "store").rglob("fits/*"))
    record = Record.load(tmp_path / "run" / "record.json")
    callbacks = record.config["trainer"]["callbacks"]
    assert callbacks == decisive(record.config)["trainer"]["callbacks"]
    assert callbacks == [{"_target_": "my_package.StopBelow", "loss": 0.5}]

    folder = tmp_path / "run" / "csv"
    tables = [(folder / name).read_text().splitlines() for name in ("metrics.csv", "final.csv")]
    logged, final = (list(csv.DictReader(lines)) for lines in tables)
    curve = [float(row["ancestor/loss/member_01"]) for row in logged if row["ancestor/loss/member_01"]]
    assert len(curve) > 1
    assert all(loss >= 0.5 for loss in curve[:-1])
    full = [row for row in logged if row["full/loss/member_01"] and row["full/loss/member_02"]]
    assert [int(row["step"]) for row in full] == list(range(len(full)))
    assert float(full[-1]["full/lr"]) > 0
    assert float(full[-1]["full/validation_loss/member_02"]) > 0
    assert len(logged[0]) < 20
    accuracy = "target/test/ensemble/accuracy"
    assert float({row["name"]: row["value"] for row in final}[accuracy]) == pytest.approx(record.metrics[accuracy])
    assert "lr: 0.01" in (folder / "hparams.yaml").read_text()


def test_a_logger_of_ones_own(cli, quick, tmp_path):
    (tmp_path / "my_conf" / "logger").mkdir(parents=True)
    [option] = blocks("yaml")
    (tmp_path / "my_conf" / "logger" / "together.yaml").write_text(option)
    assert cli(*command("logger=together"), *quick)[0] == 0
    assert list((tmp_path / "all_runs" / "transfer").rglob("events.out.tfevents.*"))


def test_the_table_has_every_argument_of_lightnings_trainer_and_names_settings_that_exist():
    rows = [
        line.split(" | ") for line in TEXT.partition("## Lightning's words")[2].splitlines() if line.startswith("| `")
    ]
    theirs = {
        word.removeprefix("trainer.").partition("=")[0] for row in rows for word in re.findall(r"`([^`]+)`", row[0])
    }
    assert set(inspect.signature(pl.Trainer).parameters) - {f.name for f in fields(TrainerSettings)} <= theirs
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=["strategy=few"], return_hydra_config=True)
    for row in rows:
        for name, value in re.findall(r"([\w./]+)=(\w+)", row[1]):
            chosen = (conf_folder() / name / f"{value}.yaml").is_file()
            assert chosen or OmegaConf.select(cfg, name, default=name) != name, name
