"""The frontier: points, rivals, leads, and the Pareto front."""

from dataclasses import replace

import numpy as np
import pytest
import records

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.findings import findings
from ensemble_transfer.report.reference import frontier_of, pareto
from ensemble_transfer.report.rows import NAMED, rows_of


def a_record(strategy, seed, budget, accuracy, nll, members=8, validation=None):
    """A run within a budget; ``validation`` is its calibrated NLL there."""
    metrics = {
        "target/test/ensemble/accuracy": accuracy,
        "target/test/calibrated/nll": nll,
        "target/validation/calibrated/nll": nll if validation is None else validation,
    }
    options = {"members": members} if strategy == "few" else {}
    config = {"strategy": options, "budget": budget, "ensemble": {"size": 8}, "seed": seed}
    cost = {"total": {"flops": (budget or 8) * 1e9, "fine_tunings": budget or 8.0}, "marginal": None}
    return records.a_record(strategy, seed, ensemble={"size": members}, metrics=metrics, cost=cost, config=config)


CURVES = {"ensemble_size": {"calibrated_nll": [0.6, 0.5, 0.4, 0.3]}}
FULL = [replace(a_record("full", seed, None, 0.9, 0.3, members=4), curves=CURVES) for seed in (0, 1)]
RECORDS = [
    a_record("few", 0, 1.0, 0.80, 0.60, members=1, validation=0.5),
    a_record("few", 0, 1.0, 0.90, 0.40, members=2, validation=0.6),
    a_record("few", 1, 1.0, 0.70, 0.70, members=1, validation=0.8),
    a_record("few", 1, 1.0, 0.82, 0.55, members=2, validation=0.7),
    a_record("few", 0, 2.0, 0.84, 0.52, members=2),
    a_record("few", 1, 2.0, 0.85, 0.51, members=2),
    a_record("snapshots", 0, 1.0, 0.81, 0.65),
    a_record("snapshots", 1, 1.0, 0.80, 0.66),
    a_record("shift", 0, 1.0, 0.83, 0.50),
    a_record("shift", 1, 1.0, 0.84, 0.49),
    a_record("shift", 0, 2.0, 0.79, 0.65),
    a_record("shift", 1, 2.0, 0.80, 0.66),
]


ACCURACY, NLL = NAMED["accuracy"], NAMED["calibrated NLL"]


@pytest.fixture(scope="module")
def rows():
    return rows_of([*FULL, *RECORDS])[0]


@pytest.fixture(scope="module")
def frontier(rows):
    return frontier_of(rows)


def at(frontier, strategy, budget):
    return next(point for point in frontier.at(budget) if point.label == strategy)


def test_few_has_the_members_that_validation_prefers_for_each_seed(frontier):
    point = at(frontier, "few", 1.0)
    assert [run.ensemble["size"] for run in point.runs] == [1, 2]
    assert point.numbers["accuracy"] == {0: 0.80, 1: 0.82}


def test_the_rival_is_the_better_of_few_and_snapshots_of_those_with_the_most_seeds(frontier):
    assert frontier.rival(1.0, ACCURACY).label == "few"  # .81 against .805
    assert frontier.rival(1.0, NLL).label == "few"
    assert frontier.rival(4.0, ACCURACY) is None
    lucky = frontier_of(rows_of([*RECORDS, a_record("snapshots", 0, 2.0, 0.99, 0.10)])[0])
    assert lucky.rival(2.0, ACCURACY).label == lucky.rival(2.0, NLL).label == "few"


def test_leads_are_paired_by_seed(frontier):
    lead = frontier.lead(at(frontier, "shift", 1.0), ACCURACY)
    assert lead.mean == pytest.approx(((0.83 - 0.80) + (0.84 - 0.82)) / 2)
    assert lead.n == 2
    assert frontier.lead(at(frontier, "few", 1.0), ACCURACY) is None


def test_worth_is_measured_by_full_and_divided_by_cost(frontier):
    shift = at(frontier, "shift", 1.0)
    assert shift.numbers["worth"] == {0: pytest.approx(2.0), 1: pytest.approx(2.1)}
    assert shift.numbers["worth / cost"][0] == pytest.approx(2.0)
    assert "worth" not in at(frontier, "shift", 2.0).numbers  # less than one member is not worth a share of one


def test_the_table_has_a_line_for_each_strategy_and_budget():
    comparison = Comparison.of([*FULL, *RECORDS])
    [table] = [table for table in comparison.tables if table.title.startswith("What a budget buys")]
    lines = [(line["budget"].text, line["strategy"].text, line["members"].text) for line in table.lines]
    ones = [("1", "few", "1.5"), ("1", "snapshots", "8.0"), ("1", "shift", "8.0")]
    assert lines == [*ones, ("2", "few", "2.0"), ("2", "shift", "8.0")]
    assert table.lines[2]["accuracy minus the best rival's"].text.startswith("+0.025 [")
    assert "minus the best rival's" not in Comparison.of(FULL).markdown()


def test_where_no_strategy_meets_a_rival_there_is_no_frontier(rows):
    assert frontier_of([row for row in rows if row.strategy == "full"]) is None
    assert frontier_of([row for row in rows if row.role == "rival"]) is None
    assert frontier_of([r for r in rows if (r.strategy, r.budget) in (("shift", 2.0), ("snapshots", 1.0))]) is None
    assert {point.budget for point in frontier_of([row for row in rows if row.budget == 1.0]).points} == {1.0}


@pytest.mark.parametrize("budget", [2.0, None])
def test_a_run_meets_the_rivals_that_have_what_it_spent_as_its_budget(budget):
    rivals = [a_record("few", seed, 1.94, 0.84, 0.52 - seed / 100, members=2) for seed in (0, 1)]
    total = {"total": {"flops": 1e9, "fine_tunings": 1.932}}
    own = [replace(a_record("auto", seed, budget, 0.9, 0.4), cost=total | {"marginal": None}) for seed in (0, 1)]
    comparison = Comparison.of([*rivals, *own])
    assert comparison.frontier.lead(at(comparison.frontier, "auto", 1.94), NLL).mean == pytest.approx(-0.115)
    start = "Against the best rival of its budget, in calibrated NLL, over 2 seeds: better: auto (by 0.115"
    assert findings(comparison)[0].sentences[0].startswith(start)
    frugal = [replace(a_record("auto", 0, 2.0, 0.9, 0.4), cost=total | {"total": {"flops": 1e9, "fine_tunings": 1.0}})]
    assert at(frontier_of(rows_of([*RECORDS, *frugal])[0]), "auto", 2.0).mean("fine-tunings") == 1
    whole = [a_record("few", seed, 2.0, 0.8, 0.5) for seed in (0, 1)]
    two = {"flops": 1e9, "fine_tunings": 2.0}
    both = [a_record("shift", seed, size, 0.8, 1 / size) for seed in (0, 1) for size in (2.0, 3.0)]
    both = [replace(run, cost={"total": two, "marginal": None}) for run in both]  # one has the budget, one spent it
    [point] = [point for point in frontier_of(rows_of([*whole, *both])[0]).at(2.0) if point.strategy == "shift"]
    assert {run.config["budget"] for run in point.runs} == {2.0}
    dear = [replace(run, cost=total | {"total": {"flops": 1e9, "fine_tunings": 1.8}}) for run in own]
    assert frontier_of(rows_of([*rivals, *dear])[0]) is None


@pytest.mark.parametrize("order", [1, -1])
def test_variants_without_a_budget_all_meet_the_rivals_in_whatever_order_they_come(order):
    two = {"total": {"flops": 1e9, "fine_tunings": 2.0}, "marginal": None}
    variants = [replace(a_record("shift", seed, None, 0.8, nll), cost=two) for nll in (0.6, 0.4) for seed in (0, 1)]
    scaled = [
        replace(run, config=run.config | {"strategy": {"scale": scale}})
        for run, scale in zip(variants, (1.0, 1.0, 0.7, 0.7), strict=True)
    ]
    frontier = frontier_of(rows_of([*RECORDS[4:6], *scaled[::order]])[0])
    leads = {point.label: frontier.lead(point, NLL).mean for point in frontier.points if point.role != "rival"}
    assert leads == {"shift (scale=1)": pytest.approx(0.085), "shift (scale=0.7)": pytest.approx(-0.115)}


def test_a_run_that_has_spent_more_than_its_budget_has_no_place_at_it():
    more = {"total": {"flops": 1e9, "fine_tunings": 2.8}, "marginal": None}  # members were added
    larger = [replace(a_record("shift", seed, 2.0, 0.9, 0.3, members=16), cost=more) for seed in (0, 1)]
    points = frontier_of(rows_of([*RECORDS, *larger])[0]).at(2.0)
    assert {point.runs[0].ensemble["size"] for point in points if point.strategy == "shift"} == {8}
    assert frontier_of(rows_of([*RECORDS[4:6], *larger])[0]) is None


def test_rows_do_not_depend_on_the_order_of_settings():
    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    both = [replace(r, config=r.config | {"backbone": b}) for r, b in zip(RECORDS[4:6], (one, other), strict=True)]
    assert [row.seeds for row in rows_of(both)[0]] == [(0, 1)]


def test_without_a_rival_or_with_several_tasks_there_is_none_either(rows):
    assert frontier_of([row for row in rows if row.role != "rival"]) is None
    autos = [a_record("auto", seed, budget, 0.8, 0.5) for seed in (0, 1) for budget in (1.0, 2.0)]
    methods = Comparison.of([*autos, *(r for r in RECORDS if r.strategy == "shift")])
    assert methods.differences.lines  # to the first row
    assert findings(methods)[0].sentences[0].startswith("Against ")
    others = [replace(r, config=r.config | {"dataset": {"target": {"train": 9}}}) for r in RECORDS]
    assert frontier_of(rows_of([*RECORDS, *others])[0]) is None


def test_runs_of_other_recipes_are_points_of_their_own():
    wrong = [replace(r, config=r.config | {"recipe": {"full": {"lr": 0.03}}}) for r in RECORDS if r.strategy == "shift"]
    usual = [replace(r, config=r.config | {"recipe": {"full": {"lr": 0.01}}}) for r in RECORDS]
    shifts = frontier_of(rows_of([*usual, wrong[0], wrong[1]])[0])
    assert at(shifts, "shift", 1.0).numbers["accuracy"] == {0: 0.83, 1: 0.84}
    assert at(shifts, "shift (recipe.full.lr=0.03)", 1.0).seeds == (0, 1)
    silent = [r for r in RECORDS if r.strategy == "shift" and r.config["budget"] == 1]  # about their recipe
    named = {point.label for point in frontier_of(rows_of([*usual, *silent])[0]).points}
    assert {"shift", "shift (recipe.full.lr=0.01)"} <= named


def test_costs_within_two_percent_are_equal_on_the_front():
    points = [(1.0, 0.5), (1.015, 0.6), (1.5, 0.6), (2.0, 0.7), (1.97, 0.4)]
    assert pareto(points) == [1, 3]
    assert pareto([(1.0, 0.5), (1.03, 0.6)]) == [0, 1]
    assert pareto([(1.0, 0.5), (1.01, 0.5)]) == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_what_no_other_point_beats(seed):
    points = [tuple(point) for point in np.random.default_rng(seed).integers(0, 6, (12, 2)).tolist()]
    beaten = {(x, y) for x, y in points if any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points)}
    assert {points[index] for index in pareto(points)} == set(points) - beaten
