"""The frontier: points, rivals, leads, and the figure."""

import pytest

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.frontier import frontier_of, frontier_table, pareto
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import rows_of


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
    return Record("finished", strategy, seed, "a -> b", "net", {"size": members}, metrics, cost, config=config)


FULL = [
    Record(
        "finished",
        "full",
        seed,
        "a -> b",
        "net",
        {"size": 4},
        {"target/test/calibrated/nll": 0.3},
        {"total": {"flops": 4e9, "fine_tunings": 4.0}, "marginal": None},
        curves={"ensemble_size": {"calibrated_nll": [0.6, 0.5, 0.4, 0.3]}},
        config={"strategy": {}, "budget": None, "ensemble": {"size": 8}, "seed": seed},
    )
    for seed in (0, 1)
]
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


@pytest.fixture(scope="module")
def rows():
    return rows_of([*FULL, *RECORDS])[0]


@pytest.fixture(scope="module")
def frontier(rows):
    return frontier_of(rows)


def test_few_has_the_members_that_validation_prefers_for_each_seed(frontier):
    point = frontier.at("few", 1.0)
    assert point.members == {0: 1, 1: 2}
    assert point.numbers["accuracy"] == {0: 0.80, 1: 0.82}


def test_the_rival_is_the_better_of_few_and_snapshots_by_each_column(frontier):
    assert frontier.rival(1.0, "accuracy", True).strategy == "few"  # .81 against .805
    assert frontier.rival(1.0, "calibrated NLL", False).strategy == "few"
    assert frontier.rival(2.0, "accuracy", True).strategy == "few"
    assert frontier.rival(4.0, "accuracy", True) is None


def test_a_strategy_with_fewer_seeds_is_not_the_rival():
    lucky = frontier_of(rows_of([*RECORDS, a_record("snapshots", 0, 2.0, 0.99, 0.10)])[0])
    assert lucky.rival(2.0, "accuracy", True).strategy == "few"
    assert lucky.rival(2.0, "calibrated NLL", False).strategy == "few"


def test_leads_are_paired_by_seed(frontier):
    lead = frontier.lead(frontier.at("shift", 1.0), "accuracy", True)
    assert lead.mean == pytest.approx(((0.83 - 0.80) + (0.84 - 0.82)) / 2)
    assert lead.n == 2
    assert frontier.lead(frontier.at("few", 1.0), "accuracy", True) is None


def test_the_front_is_what_nothing_beats_for_less(frontier):
    front = [(point.strategy, point.budget) for point in frontier.pareto("accuracy", True)]
    assert front == [("shift", 1.0), ("few", 2.0)]
    assert [(p.strategy, p.budget) for p in frontier.pareto("calibrated NLL", False)] == [("shift", 1.0)]


def test_costs_within_two_percent_are_equal_on_the_front():
    points = [(1.0, 0.5), (1.015, 0.6), (1.5, 0.6), (2.0, 0.7), (1.97, 0.4)]
    assert pareto(points) == [1, 3]
    assert pareto([(1.0, 0.5), (1.03, 0.6)]) == [0, 1]
    assert pareto([(1.0, 0.5), (1.01, 0.5)]) == [0, 1]


def test_worth_is_measured_by_full_and_divided_by_cost(frontier):
    assert frontier.at("shift", 1.0).numbers["worth"] == {0: pytest.approx(2.0), 1: pytest.approx(2.1)}
    assert frontier.at("shift", 1.0).numbers["worth / cost"][0] == pytest.approx(2.0)
    assert "worth" not in frontier.at("shift", 2.0).numbers  # less than one member is not worth a share of one


def test_the_table_has_a_line_for_each_strategy_and_budget(frontier):
    head, lines = frontier_table(frontier)
    assert all(len(line) == len(head) for line in lines)
    assert [line[:2] for line in lines] == [
        ["1", "few"],
        ["1", "snapshots"],
        ["1", "shift"],
        ["2", "few"],
        ["2", "shift"],
    ]
    assert lines[0][head.index("members")] == "1.5"


def test_without_budgets_there_is_no_frontier(rows):
    assert frontier_of([row for row in rows if row.strategy == "full"]) is None
    assert frontier_of([row for row in rows if row.settings["budget"] == "1.0"]) is None


def test_a_comparison_with_budgets_has_the_table(tmp_path):
    text = Comparison.of([*FULL, *RECORDS]).markdown()
    assert "| budget | strategy | fine-tunings |" in text
    assert "minus the best rival's" not in Comparison.of(FULL).markdown()
