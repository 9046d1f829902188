"""Compare strategies at each budget with the best rival, from the rows of a comparison.

Rivals need no ensemble: strategies whose role is ``rival``. What a rival was run with at a budget, such as its number
of members, is chosen on validation for each seed. This choice is not billed, which favours the rival.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ensemble_transfer.report.baseline import SAME
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import CALIBRATED, FINE_TUNINGS, WORTH, WORTH_PER_COST, Row
from ensemble_transfer.report.statistics import Difference, Spread, paired_difference

CHOICE = "target/validation/calibrated/nll"
"""Metric that chooses the options of a rival: NLL on validation, calibrated across its two halves."""

Numbers = Mapping[str, Mapping[int, float]]
"""Values by column, then by seed."""


@dataclass(frozen=True)
class Point:
    """A strategy at a budget.

    Attributes:
        strategy: The strategy, with the options that set it apart from others of its name.
        role: Its role.
        budget: In fine-tunings.
        numbers: Values by column, then by seed.
        members: Chosen numbers of members by seed, where several were run; else empty.
        bounds: Columns whose numbers are lower bounds.
    """

    strategy: str
    role: str
    budget: float
    numbers: Numbers
    members: Mapping[int, int]
    bounds: frozenset[str] = frozenset()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(next(iter(self.numbers.values()), {}))

    def text(self, column: str, digits: int) -> str:
        """Return a column as a row's text gives it."""
        return self.spread(column).text(digits, bound=column in self.bounds)

    def spread(self, column: str) -> Spread:
        """Return mean and spread of a column over seeds; NaN where a run has no such number."""
        values = list(self.numbers.get(column, {}).values())
        return Spread.of(values) if values else Spread(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Frontier:
    """All strategies of a pair of tasks at all budgets.

    Attributes:
        points: Points by strategy, then from the smallest budget to the largest.
    """

    points: tuple[Point, ...]

    @property
    def strategies(self) -> list[str]:
        """The strategies, in the order of the rows."""
        return list(dict.fromkeys(point.strategy for point in self.points))

    @property
    def budgets(self) -> list[float]:
        """The budgets, from the smallest to the largest."""
        return sorted({point.budget for point in self.points})

    def line(self, strategy: str) -> list[Point]:
        """Return a strategy's points, from the smallest budget to the largest."""
        return [point for point in self.points if point.strategy == strategy]

    def at(self, strategy: str, budget: float) -> Point | None:
        """Return a strategy's point at a budget; None where it was not run."""
        return next((p for p in self.points if (p.strategy, p.budget) == (strategy, budget)), None)

    def rival(self, budget: float, column: str, higher_is_better: bool) -> Point | None:
        """Return the best rival at a budget: the best by a column's mean on test."""
        rivals = [p for p in self.points if p.budget == budget and p.role == "rival"]
        return best_of(rivals, column, higher_is_better)

    def lead(self, point: Point, column: str, higher_is_better: bool) -> Difference | None:
        """Return the difference of a point to the best rival at its budget, paired by seed; None without one."""
        rival = self.rival(point.budget, column, higher_is_better)
        if rival is None or point.role == "rival":
            return None
        return paired_difference(point.numbers.get(column, {}), rival.numbers.get(column, {}))

    def pareto(self, column: str, higher_is_better: bool) -> list[Point]:
        """Return the points that no other beats in the mean at the same cost or less, from the cheapest."""
        sign = 1 if higher_is_better else -1
        places = [(point.spread(FINE_TUNINGS).mean, sign * point.spread(column).mean) for point in self.points]
        return [self.points[index] for index in pareto(places)]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, quality) on the Pareto front, cheapest first.

    A point is beaten by one of higher quality that costs no more, or no more than 2% more: such costs are equal.
    """

    def beaten(cost: float, quality: float) -> bool:
        near = (1 + SAME) * cost
        return any((c <= near and q > quality) or ((1 + SAME) * c < cost and q == quality) for c, q in points)

    known = [index for index, (cost, quality) in enumerate(points) if not math.isnan(cost + quality)]
    return sorted((index for index in known if not beaten(*points[index])), key=lambda index: points[index])


def best_of(points: Iterable[Point], column: str, higher_is_better: bool) -> Point | None:
    """Return the point with the best mean of a column, of those with the most seeds; None if no point has it."""
    known = [point for point in points if column in point.numbers]
    most = max((len(point.seeds) for point in known), default=0)
    sign = 1 if higher_is_better else -1
    complete = [point for point in known if len(point.seeds) == most]
    return max(complete, key=lambda point: sign * point.spread(column).mean, default=None)


def frontier_of(rows: Iterable[Row]) -> Frontier | None:
    """Return the frontier of the rows that had a budget; None for fewer than two strategies or two budgets."""
    groups: dict[str, dict[float, list[Row]]] = {}
    budgeted = [row for row in rows if budget_of(row) is not None]
    for row in budgeted:
        budget = budget_of(row)
        assert budget is not None
        groups.setdefault(_name(row, budgeted), {}).setdefault(budget, []).append(row)
    points = [_point(name, budget, own) for name, by in groups.items() for budget, own in sorted(by.items())]
    budgets = {point.budget for point in points}
    return Frontier(tuple(points)) if len(groups) > 1 and len(budgets) > 1 else None


def budget_of(row: Row) -> float | None:
    """Return a row's budget in fine-tunings; None where it had none."""
    value = row.settings.get("budget", "None")
    return None if value == "None" else float(value)


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Return the strategy with its options that differ among rows of its name; those of a rival do not count."""
    if row.role == "rival":
        return row.strategy
    same = [other for other in rows if other.strategy == row.strategy]
    apart = [
        f"{name.removeprefix('strategy.')}={value}"
        for name, value in row.settings.items()
        if name.startswith("strategy.") and any(other.settings.get(name) != value for other in same)
    ]
    return f"{row.strategy} ({', '.join(apart)})" if apart else row.strategy


def _point(name: str, budget: float, rows: Sequence[Row]) -> Point:
    """Return the point of rows of one strategy at one budget; where there are several, each seed has its best."""
    if len(rows) == 1:
        return Point(name, rows[0].role, budget, rows[0].numbers, {}, rows[0].bounds)
    by_seed: dict[int, tuple[Row, Record]] = {}
    for row in rows:
        for run in row.runs:
            best = by_seed.get(run.seed)
            if best is None or _chosen_by(run) < _chosen_by(best[1]):
                by_seed[run.seed] = row, run
    columns = dict.fromkeys(column for row in rows for column in row.numbers)
    numbers = {
        column: {seed: row.numbers[column][seed] for seed, (row, _) in sorted(by_seed.items())}
        for column in columns
        if all(seed in row.numbers.get(column, {}) for seed, (row, _) in by_seed.items())
    }
    members = {seed: int(run.ensemble["size"]) for seed, (_, run) in sorted(by_seed.items())}
    bounds = frozenset[str]().union(*(row.bounds for row, _ in by_seed.values()))
    return Point(name, rows[0].role, budget, numbers, members, bounds)


def _chosen_by(run: Record) -> float:
    value = run.metrics.get(CHOICE)
    return math.inf if value is None else value


def members_text(point: Point) -> str:
    """Return how many members the runs had that a point takes: their mean over seeds, or a dash."""
    return f"{mean(point.members.values()):.1f}" if point.members else "-"


FRONTIER_NOTE = (
    "The best rival at a budget is the one with the best mean of the column on test, of those with the most seeds. A "
    "rival has the number of members that validation prefers for each seed, and is billed for that number alone. Both "
    "favour the rival. Differences are paired by seed with a 95% interval; a strategy is better at equal "
    "cost only where it excludes zero."
)

LEADS = (("accuracy", 3, True), (CALIBRATED, 3, False))
"""Columns in which strategies are set against the best rival: name, digits, whether higher is better."""


def frontier_table(frontier: Frontier) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the lines of the table: budget by budget, every strategy against the best rival."""
    head = ["budget", "strategy", FINE_TUNINGS, "accuracy", CALIBRATED, WORTH, WORTH_PER_COST]
    head += [f"{name} minus the best rival's" for name, _, _ in LEADS] + ["members", "n"]
    lines = []
    for budget in frontier.budgets:
        for point in (p for p in frontier.points if p.budget == budget):
            leads = [(frontier.lead(point, name, higher), digits) for name, digits, higher in LEADS]
            lines.append(
                [
                    f"{budget:g}",
                    point.strategy,
                    point.text(FINE_TUNINGS, 2),
                    point.text("accuracy", 3),
                    point.text(CALIBRATED, 3),
                    point.text(WORTH, 2),
                    point.text(WORTH_PER_COST, 2),
                    *("-" if lead is None else lead.text(digits) for lead, digits in leads),
                    members_text(point),
                    str(len(point.seeds)),
                ]
            )
    return head, lines
