"""What rows are compared with: the baseline, one member fully fine-tuned, or the best rival at their budget.

Rivals need no ensemble: strategies whose role is ``rival``. What a rival was run with at a budget, such as its number
of members, is chosen on validation for each seed. This choice is not billed, which favours the rival.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import CALIBRATED, FINE_TUNINGS, SAME, Column, Row, by_task, is_baseline
from ensemble_transfer.report.statistics import Difference, paired_difference

FRONTIER_NOTE = (
    "The best rival at a budget is the one with the best mean of the column on test, of those with the most seeds. A "
    "rival has the number of members that validation prefers for each seed, and is billed for that number alone. Both "
    "favour the rival. Differences are paired by seed with a 95% interval; a strategy is better at equal "
    "cost only where it excludes zero."
)


def of_baseline(row: Row) -> bool:
    """Return whether a row is the baseline: one member, fully fine-tuned."""
    return all(map(is_baseline, row.runs))


def name_of(reference: Row) -> str:
    """Return what a row that others are compared with is called in a sentence."""
    return "the baseline, one member fully fine-tuned" if of_baseline(reference) else reference.label


def references(rows: Iterable[Row], named: str | None = None) -> dict[str, Row | None]:
    """Return the row that each row is compared with, by label: of the same task, and nearest in its other settings.

    It is the baseline: one member, fully fine-tuned. Without one it is the best rival by calibrated NLL, of the row's
    budget if any has it; then the reference; then the first row. ``named`` is the label or the strategy of another;
    then a row has None if its task has no such row.
    """
    return {row.label: _reference(row, own, named) for own in by_task(rows).values() for row in own}


def _reference(row: Row, rivals: Sequence[Row], named: str | None) -> Row | None:
    if named is not None:
        found = [r for r in rivals if r.label == named] or [r for r in rivals if r.strategy == named]
    else:
        found = list(filter(of_baseline, rivals)) or _best_rival(row, rivals)
        found = found or [r for r in rivals if r.role == "reference"] or [rivals[0]]
    return max(found, key=lambda other: len(other.settings.items() & row.settings.items()), default=None)


def _best_rival(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return the rival with the best calibrated NLL, of those with the row's budget if there are any."""
    rivals = [r for r in rows if r.role == "rival" and r.unit == row.unit and CALIBRATED in r.numbers]
    equal = [] if _exceeds(row) else [r for r in rivals if r.budget == row.budget]
    best = best_of(equal or rivals, CALIBRATED)
    return [best] if best else []


def best_of(rows: Iterable[Row], column: str, higher_is_better: bool = False) -> Row | None:
    """Return the row with the best mean of a column, of those with the most seeds; None if no row has it."""
    known = [row for row in rows if column in row.numbers]
    most = max((len(row.seeds) for row in known), default=0)
    sign = 1 if higher_is_better else -1
    complete = [row for row in known if len(row.seeds) == most]
    return max(complete, key=lambda row: sign * row.mean(column), default=None)


@dataclass(frozen=True)
class Frontier:
    """All strategies of a pair of tasks at all budgets.

    Attributes:
        points: A row for each strategy at each budget, by strategy, then from the smallest budget to the largest. The
            label is the strategy, with the options that set it apart from others of its name.
    """

    points: tuple[Row, ...]

    def at(self, budget: float | None) -> list[Row]:
        """Return the points at a budget."""
        return [point for point in self.points if point.budget == budget]

    def rival(self, budget: float | None, column: Column) -> Row | None:
        """Return the best rival at a budget: the best by a column's mean on test."""
        rivals = [point for point in self.at(budget) if point.role == "rival"]
        return best_of(rivals, column.name, bool(column.higher_is_better))

    def lead(self, point: Row, column: Column) -> Difference | None:
        """Return the difference of a point to the best rival at its budget, paired by seed; None without one.

        None also for a row that has spent more than its budget.
        """
        rival = self.rival(point.budget, column)
        if rival is None or point.role == "rival" or _exceeds(point):
            return None
        return paired_difference(point.numbers.get(column.name, {}), rival.numbers.get(column.name, {}))


def frontier_of(rows: Iterable[Row]) -> Frontier | None:
    """Return the frontier of the rows that have a place on it; None where no strategy meets a rival at its budget.

    None also for rows of several tasks, and of several units of cost, such as two backbones.
    """
    rows = list(rows)
    placed = on_frontier(rows)
    known = [row for row in placed if CALIBRATED in row.numbers]
    rivals = {row.budget for row in known if row.role == "rival"}
    alike = len(by_task(rows)) == 1 >= len(frozenset[float | None]().union(*(row.unit for row in rows)))
    if not alike or not any(row.budget in rivals for row in known if row.role != "rival"):
        return None
    groups: dict[str, dict[float, list[Row]]] = {}
    for row in placed:
        groups.setdefault(_name(row, placed), {}).setdefault(row.budget or 0.0, []).append(row)
    points = [_point(name, own) for name, by_budget in groups.items() for _, own in sorted(by_budget.items())]
    return Frontier(tuple(points))


def on_frontier(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that had a budget and kept to it, and those that spent what rivals had.

    A strategy that no rival has the budget of has that of the rivals whose budget it spent, as those of one run have;
    unless the strategy is there already.
    """
    budgets = {row.budget for row in rows if row.role == "rival" and row.budget is not None}
    taken = {(row.strategy, row.budget) for row in rows}
    found = []
    for row in rows:
        spent = row.mean(FINE_TUNINGS)
        near = [budget for budget in sorted(budgets) if abs(budget - spent) <= SAME * spent]
        nearest = min(near, key=lambda budget: abs(budget - spent), default=None)
        moves = row.role != "rival" and row.budget not in budgets and (row.strategy, nearest) not in taken
        if moves and nearest is not None:
            found.append(replace(row, budget=nearest))
        elif row.budget is not None and not _exceeds(row):
            found.append(row)
    return found


def _exceeds(row: Row) -> bool:
    """Return whether a row has spent more than its budget, as a run to which members were added has."""
    return row.budget is not None and row.mean(FINE_TUNINGS) > (1 + SAME) * row.budget


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Return the strategy with its options that differ among rows of its name; those of a rival do not count.

    Settings that differ at one budget, such as a recipe's, set rows apart too. What most rows share is left out.
    """
    if row.role == "rival":
        return row.strategy
    same = [other for other in rows if other.strategy == row.strategy]

    def tells(name: str, value: str) -> bool:
        given = [own.settings.get(name) for own in same]
        at_budgets = {(own.settings.get(name), own.budget) for own in same}
        differs = name.startswith("strategy.") or len(at_budgets) > len({own.budget for own in same})
        telling = given.count(value) <= len(same) / 2 or None in given  # None: it is absent
        return name != "budget" and differs and telling

    apart = [f"{name.removeprefix('strategy.')}={value}" for name, value in row.settings.items() if tells(name, value)]
    return f"{row.strategy} ({', '.join(apart)})" if apart else row.strategy


def _point(name: str, rows: Sequence[Row]) -> Row:
    """Return the point of rows of one strategy at one budget; where there are several, each seed has its best."""
    chosen: dict[int, tuple[Record, Row]] = {}
    for row in rows:
        for run in row.runs:
            if run.seed not in chosen or validation_nll(run) < validation_nll(chosen[run.seed][0]):
                chosen[run.seed] = run, row
    own = sorted(chosen.items())
    numbers = {
        column: {seed: row.numbers[column][seed] for seed, (_, row) in own}
        for column in dict.fromkeys(column for row in rows for column in row.numbers)
        if all(column in row.numbers for _, (_, row) in own)
    }
    bounds = frozenset[str]().union(*(row.bounds for _, (_, row) in own))
    return replace(rows[0], label=name, runs=tuple(run for _, (run, _) in own), numbers=numbers, bounds=bounds)


def validation_nll(run: Record) -> float:
    """Return what chooses the options of a rival: NLL on validation, calibrated across its two halves."""
    value = run.metrics.get("target/validation/calibrated/nll")
    return math.inf if value is None else value


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, quality) on the Pareto front, cheapest first.

    A point is beaten by one of higher quality that costs no more, or no more than 2% more: such costs are equal.
    """

    def beaten(cost: float, quality: float) -> bool:
        near = (1 + SAME) * cost
        return any((c <= near and q > quality) or ((1 + SAME) * c < cost and q == quality) for c, q in points)

    known = [index for index, (cost, quality) in enumerate(points) if not math.isnan(cost + quality)]
    return sorted((index for index in known if not beaten(*points[index])), key=lambda index: points[index])
