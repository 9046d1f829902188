"""The command line as a user types it: the main job on real data, sweeps, and wrong command lines."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from ensemble_transfer.cli.main import main
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.artifacts import artifacts_of
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.presets import preset_names
from ensemble_transfer.tensor_files import read_tensors


def test_the_main_job_leaves_everything_it_promises(cli, quick, tmp_path):
    code, out, err = cli("+strategy=shift", *quick, "hydra.run.dir=run")
    run = tmp_path / "run"
    assert code == 0, err
    names = {"record.json", "predictions.npz", "ensemble", "shift.safetensors", "summary.md", "ensemble_transfer.log"}
    assert names <= {path.name for path in run.iterdir()}
    data = json.loads((run / "record.json").read_text())
    assert data["status"] == "finished"
    assert data["command"] == f"python -m ensemble_transfer strategy=shift {' '.join(quick)}".replace(
        "backbone.options.channels=[4,8,8,8]", "'backbone.options.channels=[4,8,8,8]'"
    )

    with np.load(run / "predictions.npz") as predictions:
        probabilities, labels = predictions["probabilities"], predictions["labels"]
        assert probabilities.shape == (2, 50, 10)
        assert probabilities.dtype == np.float32
        assert predictions["validation/probabilities"].shape == (2, 40, 10)
        assert not [name for name in predictions.files if name.startswith("ood/")]
    assert data["notes"] == [
        "Images of the source are not counted as out of distribution: the target has all 10 classes of the source."
    ]
    assert "the target has all 10 classes of the source" in " ".join((run / "summary.md").read_text().split())
    accuracy = (probabilities.mean(0).argmax(-1) == labels).mean()
    assert data["metrics"]["target/test/ensemble/accuracy"] == pytest.approx(accuracy)
    assert f"{accuracy:.3f}" in out
    assert str(run) in out.replace("\n", "")
    assert len(Ensemble.load(run / "ensemble")) == 2


def test_a_second_run_finds_every_fit_and_gives_the_same_record(cli, quick, run):
    assert cli("strategy=full", *quick, "hydra.run.dir=full")[0] == 0
    reused = Record.load(run.with_name("full") / "record.json").reused_fits
    assert [fit["member"] for fit in reused if fit["phase"] == "full"] == [0]  # the donor that shift fine-tuned
    again = run.with_name("again")
    assert cli("strategy=shift", *quick, "hydra.run.dir=again")[0] == 0
    first, second = (Record.load(folder / "record.json") for folder in (run, again))
    assert first.reproducible() == second.reproducible()
    assert not first.reused_fits
    assert {fit["phase"] for fit in second.reused_fits} == {"ancestor", "source", "full", "probe", "tiny"}
    own, reused = (record.cost["phases"]["full"] | {"fine_tunings_by_time": None} for record in (first, second))
    assert own == reused  # the seconds are those of the real fit
    (one, header), (other, same) = (read_tensors(folder / "shift.safetensors") for folder in (run, again))
    assert header == same
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_source_ensemble_is_kept_and_named_by_what_came_of_it(run, tmp_path):
    [kept] = (tmp_path / "store" / "ensembles").iterdir()
    assert Ensemble.load(kept).fingerprint == kept.name
    assert Ensemble.load(run / "ensemble").history["source_ensemble"] == kept.name
    [source] = [item for item in artifacts_of(Record.load(run / "record.json"), run) if item.consumed]
    assert set(source.files) == {"README.md", "ensemble.json", "member_00.safetensors", "member_01.safetensors"}


def test_other_tasks_can_be_paired_and_named_as_out_of_distribution(cli, quick, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (90, 9, 9, 3), dtype=np.uint8), np.arange(90) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    code, _, err = cli(
        "++strategy=head",
        "task@dataset.target=npz",
        f"dataset.target.path={tmp_path / 'mine.npz'}",
        *(setting for setting in quick if "target" not in setting),
        "dataset.channels=3",
        "+task@evaluation.ood.high=mnist_high",
        "evaluation.corruptions=[contrast]",
        "evaluation.severities=[1,5]",
        "hydra.run.dir=run",
    )
    assert code == 0, err
    metrics = Record.load(tmp_path / "run" / "record.json").metrics
    assert 0 <= metrics["target/test/ood/high/entropy/auroc"] <= 1
    assert "target/test/corruption/contrast/5/accuracy" in metrics
    assert Ensemble.load(tmp_path / "run" / "ensemble").architecture.channels == 3


def test_without_a_strategy_all_are_listed(cli):
    names = preset_names("strategy")
    assert {"auto", "few", "full", "head", "shift", "snapshots", "star"} < set(names)
    for arguments in ((), ("-m",), ("strategy.donors=2",), ("-m", "seed=0,1")):
        code, _, err = cli(*arguments)
        assert code == 2
        assert err.startswith("error: choose a strategy:\n")
        assert [line.split()[0] for line in err.splitlines()[1:]] == [f"strategy={name}" for name in names]


def test_an_unforeseen_error_keeps_its_traceback_and_says_where(cli, quick, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("ensemble_transfer.runs.conclusion.predict_target", broken)
    code, _, err = cli("+strategy=head", *quick, "hydra.run.dir=run")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: the run failed with KeyError: 'lost'; its traceback is in ")
    assert "predict_target" in (tmp_path / "run" / "traceback.txt").read_text()
    assert Record.load(tmp_path / "run" / "record.json").error == "KeyError: 'lost'"


def test_a_traceback_comes_with_hydra_full_error(cli, monkeypatch):
    cli("+strategy=shift", "seed=-1")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["ensemble_transfer", "+strategy=shift", "seed=-1"])
    with pytest.raises(ValueError, match="must be 0 or more"):
        main()


@pytest.mark.parametrize("line", ["-m +strategy=head seed=-1 --config-dir .", "-m strategy=head,nope", "-m nokey=1,2"])
def test_a_mistake_in_a_sweep_is_told_once(cli, line):
    code, _, err = cli(*line.split())
    assert code == (1 if "seed" in line else 2)
    assert len([text for text in err.splitlines() if "rror" in text]) == 1
    assert "Traceback" not in err


def test_the_configuration_is_shown_without_a_strategy_and_with_one(cli):
    code, out, err = cli("--cfg", "job")
    assert (code, err) == (0, "")
    assert "backbone" in yaml.safe_load(out)
    assert "strategy" not in yaml.safe_load(out)
    assert yaml.safe_load(cli("--cfg", "job", "+strategy=head")[1])["strategy"]["_target_"].endswith("HeadOnly")
    assert "strategy/shift" in cli("--info", "defaults", "strategy=shift")[1]
