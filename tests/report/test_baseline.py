"""One member, fully fine-tuned, is the baseline of every comparison that has it."""

from dataclasses import replace

import pytest

from ensemble_transfer.report.baseline import is_baseline
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import COLUMNS

ACCURACY = "target/test/ensemble/accuracy"


def run(strategy="few", size=1, budget=None, accuracy=0.5, seed=0):
    config = {"strategy": {"name": strategy, "members": size}, "budget": budget, "seed": seed}
    about = ("a -> b", "resnet10t", {"size": size, "lineage": "shared"})
    cost = {"total": {"fine_tunings": budget or 1.0}}
    return Record("finished", strategy, seed, *about, metrics={ACCURACY: accuracy}, cost=cost, config=config)


@pytest.mark.parametrize("budget", [None, 1, 1.0])
def test_one_member_by_its_recipe_is_the_baseline(budget):
    assert is_baseline(run(budget=budget))


@pytest.mark.parametrize("other", [{"size": 2}, {"budget": 1.1}, {"budget": 0.5}, {"strategy": "full"}])
def test_others_are_not(other):
    assert not is_baseline(run(**other))


def test_a_record_without_a_budget_or_a_size_is_read():
    old = run()
    assert is_baseline(replace(old, config={}))
    assert not is_baseline(replace(old, ensemble={}))


def test_differences_are_taken_to_it_wherever_it_stands():
    shift, full = (run(name, 8, accuracy=a) for name, a in (("shift", 0.6), ("full", 0.75)))
    one, longer = run(accuracy=0.7), run(budget=2.0, accuracy=0.8)
    comparison = Comparison.of([shift, full, longer, one])
    [reference] = {comparison.reference(row).label for row in comparison.rows}
    [base] = [row for row in comparison.rows if row.label == reference]
    assert base.runs == (one,)
    [moved] = [row for row in comparison.rows if row.strategy == "shift"]
    assert comparison.difference(moved, COLUMNS[0]).mean == pytest.approx(-0.1)


def test_another_row_is_the_baseline_where_one_is_named():
    comparison = Comparison.of([run("shift", 8), run("full", 8), run()], "full")
    assert {comparison.reference(row).strategy for row in comparison.rows} == {"full"}


def test_without_it_full_stays_the_baseline():
    comparison = Comparison.of([run("shift", 8), run("full", 8)])
    assert {comparison.reference(row).strategy for row in comparison.rows} == {"full"}
