"""``python -m ensemble_transfer extend``: members that are added later are those of a larger run from the start."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from ensemble_transfer.cli.export import main as export
from ensemble_transfer.cli.extend import main
from ensemble_transfer.cli.predict import main as predict
from ensemble_transfer.cli.rivals import main as rivals
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.files import fingerprints
from ensemble_transfer.tensor_files import read_tensors, write_tensors
from ensemble_transfer.transfer.shift.vector import ShiftVector
from ensemble_transfer.weights import below, fingerprint


def test_added_members_are_those_of_a_larger_run_and_compared_with_nothing(cli, quick, run, tmp_path, capsys):
    assert main([str(run), "ensemble.add=1", f"store.root={tmp_path / 'another'}"]) == 0
    said = capsys.readouterr().out
    assert "the 1 added members" in said
    assert "fully fine-tuned" not in said
    assert "--against-full fine-tunes them fully as well" in said
    assert cli("+strategy=shift", *quick, "ensemble.size=3", "hydra.run.dir=fresh", "store.root=third")[0] == 0
    grown, fresh = run / "extended_3", tmp_path / "fresh"
    assert Ensemble.load(grown / "ensemble").fingerprint == Ensemble.load(fresh / "ensemble").fingerprint
    with np.load(grown / "predictions.npz") as one, np.load(fresh / "predictions.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in other.files)
    a, b = Record.load(grown / "record.json"), Record.load(fresh / "record.json")
    assert "added_full" not in a.cost
    own = [cost["total"]["fine_tunings_by_time"] for cost in (Record.load(run / "record.json").cost, a.cost["added"])]
    assert a.cost["total"]["fine_tunings_by_time"] == pytest.approx(sum(own))  # each by the unit of its own machine
    assert not any(key.startswith("extend/") for key in a.metrics)
    same = {k: v for k, v in a.metrics.items() if not k.startswith(("shift/", "extend/", "source/validation/barrier"))}
    assert same == {k: b.metrics[k] for k in same}
    for part in ("total", "marginal"):
        assert [a.cost[part][k] for k in ("steps", "examples", "flops", "trained_parameters")] == [
            b.cost[part][k] for k in ("steps", "examples", "flops", "trained_parameters")
        ]
    phases = {name: cost["steps"] for name, cost in a.cost["phases"].items()}
    assert phases == {name: cost["steps"] for name, cost in b.cost["phases"].items()}


def test_members_added_to_turns_are_those_of_a_larger_run(changed, cli, quick, tmp_path, capsys):
    turns = ["+strategy=turns", *quick, "strategy.donors=1", "strategy.scales=[0.5,1]"]
    assert cli(*turns, "ensemble.size=2", "hydra.run.dir=run")[0] == 0
    assert cli(*turns, "ensemble.size=4", "hydra.run.dir=fresh", "store.root=third")[0] == 0
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert main([str(run), "ensemble.add=2"]) == 0
    grown = run / "extended_4"
    assert Ensemble.load(grown / "ensemble").fingerprint == Ensemble.load(fresh / "ensemble").fingerprint
    for folder in (run, grown, fresh):
        assert Ensemble.load(folder / "ensemble").history["chosen_on"] == "validation"
    a, b = Record.load(grown / "record.json"), Record.load(fresh / "record.json")
    assert a.cost["added"]["members"] == 2
    assert a.curves["turns"] == b.curves["turns"]
    for part in ("total", "marginal"):
        assert [a.cost[part][k] for k in ("steps", "flops")] == [b.cost[part][k] for k in ("steps", "flops")]
    for name, said in (
        ("donor_weights", "from other donors than the first 1 members"),
        ("target_task", "another task"),
    ):
        changed(run, lambda data, name=name: data["curves"]["turns"].update({name: "0" * 64}))
        assert main([str(run), "ensemble.add=1"]) == 2
        assert said in capsys.readouterr().err
    changed(run, lambda data: data["curves"]["turns"].update(scale="high"))
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "must be a run of strategy shift, which leaves shift.safetensors, or of turns" in capsys.readouterr().err


def with_another_ensemble(run):
    ensemble = Ensemble.load(run / "ensemble")
    replace(ensemble, members=ensemble.members[::-1]).save(run / "ensemble")


def with_another_vector(run):
    replace(ShiftVector.load(run / "shift.safetensors"), scale=0.5).save(run)


@pytest.mark.parametrize("exchanged", [with_another_ensemble, with_another_vector])
def test_files_of_another_run_are_told_by_every_command_and_used_by_none(run, exchanged, capsys):
    before = set(run.rglob("*"))
    exchanged(run)
    name = "ensemble/ensemble.json" if exchanged is with_another_ensemble else "shift.safetensors"
    for command in (
        (main, "ensemble.add=1"),
        (rivals,),
        (predict, str(run / "ensemble" / "README.md")),
        (export, str(run / "out.onnx")),
    ):
        assert command[0]([str(run), *command[1:]]) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: RUN='{run / name}': is not the one that record.json beside it names")
    assert set(run.rglob("*")) <= before


def test_on_request_added_members_are_compared_with_full_ones(run, capsys):
    assert main([str(run), "ensemble.add=2", "--against-full"]) == 0
    said = capsys.readouterr().out
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
    assert "the 2 added members" in said
    assert "the same, fully fine-tuned" in said
    ratio = record.metrics["extend/flops_ratio_to_full"]
    assert f"Against full fine-tuning: {difference:+.3f} in accuracy for {ratio:.0%} of the FLOPs" in said


def test_without_test_images_members_are_compared_on_validation(changed, run):
    changed(run, lambda data: data["config"]["evaluation"].update(test=False))
    assert main([str(run), "ensemble.add=1", "--against-full"]) == 0
    metrics = Record.load(run / "extended_3" / "record.json").metrics
    with np.load(run / "extended_3" / "predictions.npz") as arrays:
        right = arrays["validation/probabilities"][2].argmax(-1) == arrays["validation/labels"]
    assert metrics["extend/accuracy"] == pytest.approx(right.mean())


def test_members_that_exist_can_be_added(run, tmp_path):
    given = tmp_path / "given.safetensors"
    weights, _ = read_tensors(run / "ensemble" / "member_01.safetensors")
    write_tensors(given, below(weights, "encoder"))
    assert main([str(run), f"ensemble.members=[{given}]"]) == 0
    before, grown = Ensemble.load(run / "ensemble"), Ensemble.load(run / "extended_3" / "ensemble")
    assert [fingerprint(member) for member in grown.members[:2]] == [fingerprint(m) for m in before.members]
    record = Record.load(run / "extended_3" / "record.json")
    assert record.config["ensemble"]["added"] == [str(given)]
    assert {"size": 3, "lineage": "mixed"}.items() <= record.ensemble.items()
    assert record.cost["source"]["steps"] == 12 + 2 * 3 + 4  # ancestor, two members, the head of the given one


def test_a_run_that_transferred_some_of_the_given_members_can_be_extended(cli, quick, run, tmp_path):
    given = []
    for member in range(4):
        given.append(tmp_path / f"given_{member}.safetensors")
        weights, _ = read_tensors(run / "ensemble" / "member_00.safetensors")
        write_tensors(given[-1], {name: tensor + member * 1e-3 for name, tensor in below(weights, "encoder").items()})
    members = f"ensemble.members=[{','.join(map(str, given[:3]))}]"
    sizes = [word for word in quick if not word.startswith("ensemble.")]
    assert cli("strategy=zero_shot", *sizes, members, "strategy.members=2", "hydra.run.dir=some")[0] == 0
    before = Ensemble.load(tmp_path / "some" / "ensemble")
    assert len(before) == 2
    assert main([str(tmp_path / "some"), f"ensemble.members=[{given[3]}]"]) == 0
    grown = Ensemble.load(tmp_path / "some" / "extended_3" / "ensemble")
    assert [fingerprint(member) for member in grown.members[:2]] == [fingerprint(m) for m in before.members]
    assert Record.load(tmp_path / "some" / "extended_3" / "record.json").cost["added"]["members"] == 1


def test_a_path_that_is_no_text_is_refused_before_any_work(tmp_path, capsys):
    assert main([str(tmp_path / "Gr\udce4fe"), "ensemble.add=1"]) == 2
    assert "is not text in this locale" in capsys.readouterr().err


WRONG = {
    "ensemble.add=0": "ensemble.add=0: must be a whole number above 0",
    "ensemble.add=100000000000000": "must be in 1..10000",
    "ensemble.add=two": "ensemble.add='two': must be a whole number above 0",
    "trainer.threads=1": "ensemble.add=None: must be a whole number above 0",
    "ensemble.add=1 recipe.tiny.steps=4": "recipe.tiny.steps='4': cannot change for an extension",
    "add": "OVERRIDE='add': must be name=value",
    "ensemble.add=2 ensemble.members=[a.pt]": "must name 2 files, as many as ensemble.add",
    "ensemble.add=1 trainer=gpu": "trainer='gpu': is a group of settings; change one of them: trainer.NAME",
    "ensemble.members=a.pt": "ensemble.members='a.pt': must be a list of files",
    "ensemble.add=[": "ensemble.add='[': cannot be read; does it need quotes?",
    "ensemble.add=1 --output larger trainer.threads=0": "trainer.threads=0: must be in 1..1024",
}


def test_wrong_overrides_are_one_line(run, capsys):
    for overrides, line in WRONG.items():
        assert main([str(run), *overrides.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert line in error
        assert error.count("\n") == 1
    assert main([str(run.parent / "nowhere"), "ensemble.add=1"]) == 2
    assert "must be the folder of a run, with record.json" in capsys.readouterr().err


def test_a_shift_vector_that_is_of_another_task_changed_damaged_or_missing_is_refused(changed, run, capsys):
    def name_it():
        changed(run, lambda data: data["files"].update(fingerprints(run)))

    path = run / "shift.safetensors"
    vector, header = read_tensors(path)
    shift = ShiftVector.load(path)
    replace(shift, provenance={**shift.provenance, "target_task": "0" * 64}).save(run)
    name_it()
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "was made for another task" in capsys.readouterr().err
    write_tensors(path, {name: tensor + 1 for name, tensor in vector.items()}, header)
    name_it()
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "checksum" in capsys.readouterr().err
    assert Record.load(run / "extended_3" / "record.json").status == "failed"
    replace(shift, scale=math.inf).save(run)
    name_it()
    assert main([str(run), "ensemble.add=1"]) == 2
    error = capsys.readouterr().err
    assert "is not a readable shift vector" in error
    assert error.count("\n") == 1
    path.unlink()
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "must be a run of strategy shift" in capsys.readouterr().err


# A record from elsewhere


def test_nothing_that_a_record_names_is_imported(changed, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "received").mkdir()
    (tmp_path / "received" / "payload.py").write_text(
        "from pathlib import Path\nfrom ensemble_transfer.tasks.embedded import Digits as Task\nPath('ran').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "received.payload.Task"
    changed(run, lambda data: data["config"]["dataset"]["target"].update(_target_=name))
    assert main([str(run), "ensemble.add=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: dataset.target._target_='{name}': is no class of ensemble_transfer; a record is")
    assert error.endswith(f"If you trust it, add dataset.target._target_={name} to the command\n")
    assert not (tmp_path / "ran").exists()
    assert main([str(run), "ensemble.add=1", "dataset.target._target_=another.Task"]) == 2
    assert not (tmp_path / "ran").exists()
    main([str(run), "ensemble.add=1", f"dataset.target._target_={name}"])
    assert (tmp_path / "ran").exists()


FOREIGN = "os.system ensemble_transfer.__main__.main ensemble_transfer.tasks.folder.os.system tasks.embedded.Digits"


def test_only_tasks_and_strategies_of_the_package_are_imported(changed, run, capsys):
    before = set(sys.modules)
    for name in [*FOREIGN.split(), "ensemble_transfer.tasks..payload.Task", "ensemble_transfer.tasks/../payload.Task"]:
        for node in (lambda d: d["config"]["strategy"], lambda d: d["config"]["dataset"]["source"]):
            whole = (run / "record.json").read_text()
            changed(run, lambda data, node=node, name=name: node(data).update(_target_=name))
            assert main([str(run), "ensemble.add=1"]) == 2
            assert "a record is data" in capsys.readouterr().err
            (run / "record.json").write_text(whole)
    assert not {module for module in set(sys.modules) - before if "payload" in module}


def test_nothing_that_a_record_refers_to_is_resolved(changed, run, capsys):
    changed(run, lambda data: data["config"]["dataset"]["target"].update(path="${oc.env:HOME}"))
    assert main([str(run), "ensemble.add=1"]) == 2
    assert "dataset.target.path='${oc.env:HOME}': refers to something; a record is data" in capsys.readouterr().err


DAMAGED = {
    "no configuration": lambda d: d.update(config={}),
    "no strategy": lambda d: d["config"].pop("strategy"),
    "a list as seed": lambda d: d["config"].update(seed=[1]),
    "an unknown setting": lambda d: d["config"]["strategy"].update(unknown=1),
    "a text as size": lambda d: d["config"]["dataset"].update(image_size="big"),
    "no total": lambda d: d["cost"].pop("total"),
    "no phases": lambda d: d["cost"].update(phases=None),
    "interrupted": lambda d: d.update(status="interrupted"),
}


def test_damaged_records_are_one_line(changed, run, capsys):
    whole = (run / "record.json").read_text()
    for name, change in DAMAGED.items():
        (run / "record.json").write_text(whole)
        changed(run, change)
        assert main([str(run), "ensemble.add=1"]) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: "), name
        assert error.count("\n") == 1, name
        assert not (run / "extended_3").exists(), name


def test_an_extension_that_fails_says_why_and_replaces_nothing(run, capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("ensemble_transfer.runs.extension.conclude", broken)
    assert main([str(run), "ensemble.add=1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the run failed with KeyError: 'lost'; its trace")
    record = Record.load(run / "extended_3" / "record.json")
    assert (record.status, record.error) == ("failed", "KeyError: 'lost'")
    before = (run / "record.json").read_bytes()
    assert main([str(run), "ensemble.add=1", "--output", str(run)]) == 2
    assert "choose another folder with --output=..." in capsys.readouterr().err
    assert (run / "record.json").read_bytes() == before
