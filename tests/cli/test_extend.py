"""``python -m ensemble_transfer.extend``: members that are added later are those of a larger run from the start."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ensemble_transfer.cli.extend import main
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.tensor_files import read_tensors, write_tensors
from ensemble_transfer.transfer.shift.vector import ShiftVector
from ensemble_transfer.weights import below, fingerprint


@pytest.fixture
def run(finished_shift, tmp_path, monkeypatch):
    shutil.copytree(finished_shift, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_added_members_are_those_of_a_larger_run(cli, quick, run, tmp_path):
    assert main([str(run), "ensemble.add=1", f"store.root={tmp_path / 'another'}"]) == 0
    assert cli("+strategy=shift", *quick, "ensemble.size=3", "hydra.run.dir=fresh", "store.root=third")[0] == 0
    grown, fresh = run / "extended_3", tmp_path / "fresh"
    assert Ensemble.load(grown / "ensemble").fingerprint == Ensemble.load(fresh / "ensemble").fingerprint
    with np.load(grown / "predictions.npz") as one, np.load(fresh / "predictions.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in other.files)
    a, b = Record.load(grown / "record.json"), Record.load(fresh / "record.json")
    same = {k: v for k, v in a.metrics.items() if not k.startswith(("shift/", "extend/", "source/validation/barrier"))}
    assert same == {k: b.metrics[k] for k in same}
    for part in ("total", "marginal"):
        assert [a.cost[part][k] for k in ("steps", "examples", "flops", "trained_parameters")] == [
            b.cost[part][k] for k in ("steps", "examples", "flops", "trained_parameters")
        ]
    phases = {name: cost["steps"] for name, cost in a.cost["phases"].items()}
    assert phases == {name: cost["steps"] for name, cost in b.cost["phases"].items()}


def test_the_record_compares_added_members_with_full_ones(run):
    assert main([str(run), "ensemble.add=2"]) == 0
    record = Record.load(run / "extended_4" / "record.json")
    assert record.ensemble["size"] == 4
    assert record.cost["added"]["total"]["steps"] == 2 * (4 + 2)
    assert record.cost["added_full"]["total"]["steps"] == 2 * 5
    each = [record.metrics[f"extend/member_{member}/accuracy"] for member in (2, 3)]
    assert record.metrics["extend/accuracy"] == pytest.approx(sum(each) / 2)
    with np.load(run / "extended_4" / "predictions.npz") as arrays:
        right = (arrays["probabilities"].argmax(-1) == arrays["labels"]).mean(-1)
    assert each == pytest.approx(list(right[2:]))
    difference = record.metrics["extend/accuracy"] - record.metrics["extend/full_accuracy"]
    assert record.metrics["extend/accuracy_gain_over_full"] == pytest.approx(difference)


def test_members_that_exist_can_be_added(cli, quick, run, tmp_path):
    given = tmp_path / "given.safetensors"
    weights, _ = read_tensors(run / "ensemble" / "member_01.safetensors")
    write_tensors(given, below(weights, "encoder"))
    assert main([str(run), f"ensemble.members=[{given}]", "--no-full"]) == 0
    before, grown = Ensemble.load(run / "ensemble"), Ensemble.load(run / "extended_3" / "ensemble")
    assert [fingerprint(member) for member in grown.members[:2]] == [fingerprint(m) for m in before.members]
    record = Record.load(run / "extended_3" / "record.json")
    assert record.config["ensemble"]["members"] == [str(given)]
    assert record.cost["source"]["steps"] == 12 + 2 * 3 + 4  # ancestor, two members, the head of the given one


def test_no_full_spares_the_comparison(run, tmp_path):
    assert main([str(run), "ensemble.add=1", "--no-full", "--output", str(tmp_path / "there")]) == 0
    record = Record.load(tmp_path / "there" / "record.json")
    assert "added_full" not in record.cost
    assert not any(key.startswith("extend/") for key in record.metrics)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["ensemble.add=0"], "ensemble.add=0: must be a whole number above 0"),
        (["ensemble.add=two"], "ensemble.add='two': must be a whole number above 0"),
        (["trainer.threads=1"], "ensemble.add=None: must be a whole number above 0"),
        (["ensemble.add=1", "recipe.tiny.steps=4"], "recipe.tiny.steps='4': cannot change for an extension"),
        (["add"], "OVERRIDE='add': must be name=value"),
        (["ensemble.add=2", "ensemble.members=[a.pt]"], "must name 2 files, as many as ensemble.add"),
        (["ensemble.add=1", "trainer.threads=0"], "trainer.threads=0: must be in 1..1024, or null"),
    ],
)
def test_wrong_overrides_are_one_line(run, capsys, overrides, line):
    assert main([str(run), *overrides]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert line in error


def test_runs_without_a_shift_vector_are_refused(cli, quick, tmp_path, capsys):
    assert cli("+strategy=head", *quick, "hydra.run.dir=run")[0] == 0
    assert main([str(tmp_path / "run"), "ensemble.add=1"]) == 2
    assert "must be a run of strategy shift" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere"), "ensemble.add=1"]) == 2
    assert "must be the folder of a run, with record.json" in capsys.readouterr().err


def test_a_shift_vector_of_another_task_or_a_changed_one_is_refused(run, capsys):
    path = run / "shift.safetensors"
    vector, header = read_tensors(path)
    shift = ShiftVector.load(path)
    replace(shift, provenance={**shift.provenance, "target_task": "0" * 64}).save(run)
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "was made for another task" in capsys.readouterr().err
    write_tensors(path, {name: tensor + 1 for name, tensor in vector.items()}, header)
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "checksum" in capsys.readouterr().err
    assert not (run / "extended_3" / "record.json").exists()
