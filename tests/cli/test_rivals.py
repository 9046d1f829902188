"""``python -m ensemble_transfer rivals``: the baseline and the rivals of a run at its cost, and the comparison."""

import json
import re
import sys
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from ensemble_transfer.cli.main import main as ensemble_transfer
from ensemble_transfer.cli.rivals import _budget, _jobs, main
from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.report.reference import is_baseline
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.runs.presets import preset

pytestmark = pytest.mark.usefixtures("undrawn")


def found(run):
    return {str(folder.relative_to(run)): record for folder, record in read_records([run]).items()}


def finished_before(err):
    """How many runs were taken as they were; other tests may have left handlers that write the same and more."""
    return len(re.findall(r"^\d\d:\d\d:\d\d finished before$", err, re.MULTILINE))


def test_rivals_cost_what_the_run_cost_go_on_where_they_stopped_and_take_further_seeds(run, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ensemble_transfer.transfer.strategies.snapshots.Snapshots.run", _stopped)
        assert main([str(run), "--seeds", "1"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert Record.load(run / "rivals" / "snapshots" / "seed_0" / "record.json").status == "interrupted"
    assert not (run / "rivals" / "comparison").exists()

    assert main([str(run), "--seeds", "1"]) == 0
    out, err = capsys.readouterr()
    assert "to be run beside it: baseline, few_1, few_2, snapshots" in err
    assert "with 1 seed this takes less than a minute" in err
    assert "--seeds 1" not in err
    assert "One seed: the best by calibrated NLL is" in " ".join(out.split())
    assert "1 of 4: baseline, seed 0" in err
    assert finished_before(err) == 3
    records = found(run)
    own = records.pop(".")
    budget = _budget(own.cost["total"]["fine_tunings"])
    assert set(records) == {f"rivals/{name}/seed_0" for name in ("baseline", "few_1", "few_2", "snapshots")}
    assert is_baseline(records["rivals/baseline/seed_0"])
    for name, record in records.items():
        assert record.seed == own.seed
        assert record.config["budget"] == (None if "baseline" in name else budget)
        same = {"budget": None, "strategy": None, "seed": None}
        assert decisive(record.config) | same == decisive(own.config) | same
        assert record.cost["total"]["fine_tunings"] <= (1 if "baseline" in name else budget)
    assert records["rivals/few_2/seed_0"].config["strategy"]["members"] == 2
    assert {fit["phase"] for fit in records["rivals/baseline/seed_0"].reused_fits} == {"ancestor", "source", "full"}
    assert out.splitlines()[-1] == str(run / "rivals" / "comparison" / "index.html")
    assert (run / "rivals" / "comparison" / "index.html").is_file()
    assert "against the best" in out

    before = {path: path.stat().st_mtime_ns for path in run.rglob("record.json")}
    assert main([str(run), "--seeds", "2"]) == 0
    err = capsys.readouterr().err
    assert finished_before(err) == 4
    assert "; --seeds 1 takes less than a minute" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = Record.load(run / "rivals" / "shift" / "seed_1" / "record.json")
    assert "Not shown to pay" not in (run / "rivals" / "shift" / "seed_1" / "summary.md").read_text()
    assert decisive(again.config) == decisive(own.config) | {"seed": 1}
    rows = (run / "rivals" / "comparison" / "table.csv").read_text().splitlines()[1:]
    assert len(rows) == 5
    assert all(",2,0 1," in row for row in rows)


def _stopped(*_):
    raise KeyboardInterrupt


def test_a_rival_that_fails_does_not_lose_the_others(changed, run, capsys):
    def cheap(data):
        data["cost"]["total"]["fine_tunings"] = 0.02  # of a fine-tuning of 5 steps

    changed(run, cheap)
    assert main([str(run), "--seeds", "1"]) == 1
    out, err = capsys.readouterr()
    assert "error: budget=0.02: does not pay for " in err
    assert "(rivals" not in err
    assert "(snapshots/seed_0)" in err
    assert "failed: snapshots" in out
    assert found(run)["rivals/baseline/seed_0"].status == "finished"


def test_it_is_a_command_of_the_program_too(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ensemble-transfer", "rivals", str(run), "--seeds", "0"])
    assert ensemble_transfer() == 2
    assert capsys.readouterr().err == "error: --seeds=0: must be in 1..1000\n"


def test_settings_of_trainer_and_store_may_change_and_others_not(changed, run, tmp_path, capsys):
    assert main([str(run), "seed=3"]) == 2
    assert "seed='3': cannot change for rivals; allowed: trainer, store, logger" in capsys.readouterr().err
    assert main([str(run), "recipe.full.steps=3"]) == 2
    assert main([str(run), "evaluation.test=false"]) == 2
    assert main([str(run), "--seeds", "2", "trainer.threads=0"]) == 2
    assert "trainer.threads=0: must be in 1..1024" in capsys.readouterr().err
    assert not (run / "rivals").exists()
    output = tmp_path / "elsewhere"
    changed(run, lambda data: data["config"]["ensemble"].update(size=1))
    assert main([str(run), f"store.root={tmp_path / 'another'}", "--output", str(output), "--seeds", "1"]) == 0
    names = {path.parent.parent.name for path in output.rglob("record.json")}
    assert names == {"baseline", "few_1", "snapshots"}  # no two members of one
    assert (tmp_path / "another").is_dir()
    assert str(run) not in json.dumps(list(map(str, output.rglob("*"))))


def test_the_numbers_of_members_follow_the_cost(changed, run):
    changed(run, lambda data: data["config"]["ensemble"].update(size=8))
    record = Record.load(run / "record.json")
    for spent, numbers in ((0.2, [1]), (0.6, [1, 2]), (1.05, [2, 4]), (2.5, [4, 8]), (40.0, [4, 8])):
        record.cost["total"]["fine_tunings"] = spent
        jobs = list(_jobs(record, record.config, OmegaConf.create(), 1))
        assert [job.settings["strategy"]["members"] for job in jobs if job.name.startswith("few")] == numbers
        assert jobs[0].name == "baseline"


def test_members_of_pretrained_networks_have_whole_schedules(changed, run):
    changed(run, lambda data: data["config"]["ensemble"].update(size=8))
    record = Record.load(run / "record.json")
    record.config["recipe"]["pretrained"] = True
    for spent, numbers in ((0.6, [1]), (1.05, [1]), (1.8, [1]), (1.98, [1, 2]), (4.5, [2, 4])):
        record.cost["total"]["fine_tunings"] = spent
        names = [job.name for job in _jobs(record, record.config, OmegaConf.create(), 1)]
        assert names == ["baseline", *(f"few_{number}" for number in numbers), "snapshots"]


def test_a_run_of_two_members_is_compared_with_one_that_has_all_of_its_budget(changed, run):
    record = replace(Record.load(run / "record.json"), strategy="few")
    record.cost["total"]["fine_tunings"] = 1.98  # of a budget of 2
    record.config["strategy"] = preset("strategy", "few") | {"members": 2}
    record.config["recipe"]["pretrained"] = True
    names = [job.name for job in _jobs(record, record.config, OmegaConf.create(), 2)]
    assert names == ["baseline", "few_1", "snapshots", "baseline", "few_1", "snapshots", "few"]


def test_a_budget_is_a_cost_rounded_up_to_three_digits():
    assert [_budget(x) for x in (1.0, 1.413, 0.012345, 9.996, 12.34, 0.5)] == [1.0, 1.42, 0.0124, 10.0, 12.4, 0.5]


def test_a_rival_is_compared_with_the_others(cli, quick, tmp_path):
    assert cli("strategy=few", "strategy.members=1", *quick, "hydra.run.dir=run")[0] == 0
    assert main([str(tmp_path / "run"), "--seeds", "1"]) == 0
    names = {".", "rivals/few_2/seed_0", "rivals/snapshots/seed_0"}  # it is the baseline itself
    assert set(found(tmp_path / "run")) == names


UNFIT = {
    "no record": (lambda d: d.clear(), "is not a readable record"),
    "a run that failed": (lambda d: d.update(status="failed"), "must be a run that has finished"),
    "an extension": (lambda d: d["cost"].update(added={"members": 1}), "is an extension; name the run that was"),
    "no cost": (lambda d: d["cost"]["total"].pop("fine_tunings"), "has no cost in fine-tunings"),
    "not on test": (lambda d: d["config"]["evaluation"].update(test=False), "must be evaluated on test"),
    "no configuration": (lambda d: d.update(config={}), "has no configuration dataset"),
}


def test_a_run_without_rivals_is_one_line(changed, run, capsys):
    whole = (run / "record.json").read_text()
    for name, (change, line) in UNFIT.items():
        (run / "record.json").write_text(whole)
        changed(run, change)
        assert main([str(run)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: RUN="), name
        assert line in error
        assert error.count("\n") == 1
