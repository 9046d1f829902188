"""What a record says of compute: in FLOPs, in time, for one more member, for a prediction."""

import logging
from dataclasses import replace

import pytest
import torch

from ensemble_transfer import Few, Fitter, HeadOnly, Recipe, Store, Workbench
from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.runs import costs as module
from ensemble_transfer.runs.costs import costs, fine_tuning, prediction
from ensemble_transfer.training.cost import Cost, Entry, FineTuning, Ledger


@pytest.fixture(scope="module")
def bench(source_ensemble, target_task, recipes, fitter):
    return Workbench(source_ensemble, target_task.sealed(), 0, replace(recipes, full=Recipe(40)), fitter)


def test_a_cost_is_told_in_both_units():
    unit = FineTuning(flops=200, seconds=4.0)
    told = unit.measured(Cost(flops=300, seconds=9.0, cpu_seconds=5.0))
    assert (told["fine_tunings"], told["fine_tunings_by_time"]) == (1.5, 1.25)
    assert replace(unit, on_gpu=True).measured(Cost(seconds=9.0, cpu_seconds=5.0))["fine_tunings_by_time"] == 2.25


def test_a_whole_fine_tuning_is_one_by_flops_and_by_time(bench):
    bench = replace(bench, ledger=Ledger())
    spent = costs(Few(1).run(bench), Ledger(), bench)["total"]
    assert spent["fine_tunings"] == 1
    assert spent["fine_tunings_by_time"] == pytest.approx(1)


def test_half_of_a_fine_tuning_tells_the_time_of_the_whole(bench):
    half = Ledger(
        [Entry("full", 0, Cost(20, flops=20 * bench.prices.step, cpu_seconds=3.0)), Entry("tiny", 0, Cost(steps=90))]
    )
    assert fine_tuning(bench, half).seconds == 6.0


def test_without_a_fine_tuning_one_is_timed_and_nobody_pays_or_reads_of_it(bench, monkeypatch, caplog):
    timed = []
    compute = Fitter.fit

    def fit(self, architecture, starts, data, recipe, *named):
        timed.append((recipe.steps, self.store))
        return compute(self, architecture, starts, data, recipe, *named)

    bench = replace(bench, ledger=Ledger())
    result = HeadOnly().run(bench)
    before = result.ledger.total()
    monkeypatch.setattr(Fitter, "fit", fit)
    monkeypatch.setattr("ensemble_transfer.runs.costs.WARM", 2)  # tests of commands make both short
    monkeypatch.setattr("ensemble_transfer.runs.costs.TIMED", 6)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        spent = costs(result, Ledger(), bench)
    assert not [message for message in caplog.messages if "training" in message]
    assert timed == [(2, None), (6, None), (2, None)]
    assert result.ledger.total() == before
    assert spent["full_seconds"] > 0
    assert spent["total"]["fine_tunings_by_time"] > 0


def test_the_store_keeps_the_time_of_a_step_for_this_work_on_this_machine(bench, store, monkeypatch):
    timed = []

    def cost_of(bench, steps):
        timed.append(steps)
        return Cost(steps=steps, cpu_seconds=1 + 0.5 * steps)  # the first second is none of a step

    monkeypatch.setattr(module, "_timed", cost_of)
    monkeypatch.setattr(module, "WARM", 2)  # tests of commands make both short
    monkeypatch.setattr(module, "TIMED", 22)
    bench = replace(bench, fitter=replace(bench.fitter, store=store))
    assert fine_tuning(bench, Ledger()).seconds == pytest.approx(0.5 * 40)
    assert timed == [2, 2 + module.FEWEST, 2]  # a step is long, so few are timed
    assert fine_tuning(bench, Ledger()).seconds == pytest.approx(0.5 * 40)
    assert len(timed) == 3
    [kept] = store.root.glob("timings/*.json")
    for text in ("{", '{"key": "another", "seconds": 1}', kept.read_text().replace("0.5", "-1")):
        kept.write_text(text)
        assert fine_tuning(bench, Ledger()).seconds == pytest.approx(0.5 * 40)
    afresh = replace(bench, fitter=replace(bench.fitter, store=Store(store.root, reuse=False)))
    other = replace(bench, recipes=replace(bench.recipes, full=Recipe(40, batch_size=16)))
    for changed in (afresh, other):
        fine_tuning(changed, Ledger())
    assert len(timed) == 3 * 6
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    fine_tuning(bench, Ledger())
    assert len(timed) == 3 * 7


def test_a_prediction_takes_a_forward_pass_of_every_member(bench):
    head = 2 * 8 * 5
    assert prediction(bench.source) == {"networks": 3, "flops": 3 * (encode_flops(bench.architecture) + head)}
