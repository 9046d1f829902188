"""Say in at most three sentences what a comparison has found, from paired intervals alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ensemble_transfer.report.baseline import SAME
from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.frontier import Frontier, Point, budget_of
from ensemble_transfer.report.reference import name_of, of_baseline
from ensemble_transfer.report.rows import (
    BY_TIME,
    CALIBRATED,
    COLUMNS,
    FINE_TUNINGS,
    NETWORKS,
    Column,
    Row,
    costs_differ,
)
from ensemble_transfer.report.statistics import Difference, paired_difference

NAMED = 4
"""Rows that a sentence names, at most."""

_NLL = next(column for column in COLUMNS if column.name == CALIBRATED)
_MEASURES = (CALIBRATED, "NLL", "accuracy")
"""What decides: the first of them that all rows have."""


@dataclass(frozen=True)
class Finding:
    """What was found on one target task."""

    pair: str
    task: str
    sentences: tuple[str, ...]


def findings(comparison: Comparison) -> list[Finding]:
    """Return what was found on each target task, in the order of the rows."""
    pairs = comparison.by_pair()
    if len(pairs) > 1:
        return [finding for own in pairs.values() for finding in findings(own)]
    if comparison.frontier is not None:
        [pair] = pairs
        return [Finding(pair, pair, tuple(_at_budgets(comparison, comparison.frontier)))]
    tasks: dict[frozenset[tuple[str, str]], list[Row]] = {}
    for row in comparison.rows:
        tasks.setdefault(row.task, []).append(row)
    names = {task: _task_name(task, list(tasks)) for task in tasks}
    return [Finding(dict(task)["dataset"], names[task], tuple(_of(comparison, tasks[task]))) for task in tasks]


def _task_name(task: frozenset[tuple[str, str]], tasks: Sequence[frozenset[tuple[str, str]]]) -> str:
    """Return the pair of a task, with the settings that differ among tasks of that pair."""
    pair = dict(task)["dataset"]
    same = [other for other in tasks if dict(other)["dataset"] == pair]
    apart = sorted(item for item in task if any(item not in other for other in same))
    settings = ", ".join(f"{name.removeprefix('dataset.')}={value}" for name, value in apart)
    return f"{pair} ({settings})" if settings else pair


def _of(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """Return the sentences on the rows of one task; rows without the number that decides are only named."""
    counts = {name: sum(name in row.numbers for row in rows) for name in _MEASURES}
    measure = max(_MEASURES, key=lambda name: counts[name])
    known = [row for row in rows if measure in row.numbers]
    if len(known) < 2:
        return ["One row alone: there is nothing to compare it with." if known else "No row has a number to compare."]
    column = next(c for c in COLUMNS if c.name == measure)
    sentences = _against_reference(comparison, known, column)
    first, tied = _leading(known, column)
    word = "highest" if column.higher_is_better else "lowest"
    best = f"{_name(first, rows)} has the {word} {measure} ({first.values[measure].mean:.{column.digits}f})"
    if not sentences:
        return [f"No difference has an interval, so nothing can be told apart. {best}.", *_costs([first], rows)]
    if tied:
        best += f"; {_several([_name(row, rows) for row in tied])} cannot be told apart from it"
    if len(known) < len(rows):
        lacking = _several([_name(row, rows) for row in rows if measure not in row.numbers])
        best += f" (without {lacking}, for lack of numbers)"
    return [*sentences, f"{best}.", *_costs([first, *tied], rows)]


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's label, without the budget where all rows that have one share it, since it is said once."""
    budgets = {budget for other in rows if (budget := budget_of(other)) is not None}
    short = _without_budget(row)
    alone = [_without_budget(other) for other in rows].count(short) == 1
    return short if alone and len(budgets) == 1 else row.label


def _without_budget(row: Row) -> str:
    strategy, _, settings = row.label.removesuffix(")").partition(" (")
    kept = [part for part in settings.split(", ") if part and part != "no budget" and not part.startswith("budget=")]
    return f"{strategy} ({', '.join(kept)})" if kept else strategy


def _all_have(rows: Iterable[Row], column: str) -> bool:
    return all(column in row.numbers for row in rows)


def _leading(rows: Sequence[Row], column: Column) -> tuple[Row, list[Row]]:
    """Return the row with the best mean, and those whose interval of the difference to it includes zero."""
    sign = 1 if column.higher_is_better else -1
    most = max(len(row.seeds) for row in rows)
    first = max((r for r in rows if len(r.seeds) == most), key=lambda row: sign * row.values[column.name].mean)
    against = {row.label: paired_difference(row.numbers[column.name], first.numbers[column.name]) for row in rows}
    return first, [row for row in rows if row is not first and _includes_zero(against[row.label])]


def _includes_zero(difference: Difference | None) -> bool:
    """Return whether there is an interval, and it includes zero."""
    return difference is not None and _measured(difference) and not difference.significant


def _measured(difference: Difference) -> bool:
    return not math.isnan(difference.low)


def _against_reference(comparison: Comparison, rows: Sequence[Row], column: Column) -> list[str]:
    """Return the sentence that sets rows against the baseline; none where nothing has an interval."""
    groups: dict[str, list[tuple[Row, Difference]]] = {}
    references = []
    for row in rows:
        reference, difference = comparison.reference(row), comparison.difference(row, column)
        if reference is not None and difference is not None and _measured(difference):
            references.append(reference)
            kind = "apart" if not difference.significant else _kind(difference, column)
            groups.setdefault(kind, []).append((row, difference))
    if not references:
        return []
    parts = [_differ(groups[kind], kind, column, rows) for kind in ("better", "worse") if kind in groups]
    if "apart" in groups:
        parts.append(f"{_several([_name(row, rows) for row, _ in groups['apart']])} cannot be told apart from it")
    names = list(dict.fromkeys(map(name_of, references)))
    against = names[0] if len(names) == 1 else _of_each(references)
    seeds = sorted({d.n for found in groups.values() for _, d in found})
    counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    return [f"Against {against}, in {column.name}{_budget(rows)}, over {counted}: {'; '.join(parts)}."]


def _differ(found: Sequence[tuple[Row, Difference]], kind: str, column: Column, rows: Sequence[Row]) -> str:
    if len(found) == 1:
        [(row, difference)] = found
        return f"{_name(row, rows)} is {kind} {_by(difference, column)}"
    return f"{_several([f'{_name(row, rows)} ({_by(d, column)})' for row, d in found])} are {kind}"


def _kind(difference: Difference, column: Column) -> str:
    return "better" if (difference.mean > 0) == bool(column.higher_is_better) else "worse"


def _by(difference: Difference, column: Column, most: str = "") -> str:
    """Return how large a difference is, as a positive number with its interval."""
    ends = difference.mean, difference.low, difference.high
    mean, *others = ends if difference.mean > 0 else (-end for end in ends)
    low, high = sorted(others)
    return f"by {most}{mean:.{column.digits}f} [{low:.{column.digits}f}, {high:.{column.digits}f}]"


def _budget(rows: Sequence[Row]) -> str:
    """Return the budget, if all rows that have one share it."""
    budgets = {budget for row in rows if (budget := budget_of(row)) is not None}
    return f" with a budget of {budgets.pop():g} fine-tunings" if len(budgets) == 1 else ""


def _of_each(references: Iterable[Row]) -> str:
    return "the best rival of its budget" if {row.role for row in references} == {"rival"} else "its baseline"


def _costs(leading: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return the sentence on what the leading rows cost to train and to predict, or the cheapest of many."""
    if not _all_have(leading, FINE_TUNINGS):
        return []
    if len(leading) > NAMED:
        cheapest = min(leading, key=lambda row: row.values[FINE_TUNINGS].mean)
        return [f"The cheapest of these is {_name(cheapest, rows)}: {_price(cheapest)}, {_networks(cheapest)}."]
    prices = [_price(row) for row in leading]
    if len(set(prices)) == 1 < len(leading):
        networks = [f"{_name(row, rows)} with {_networks(row)}" for row in leading]
        both = "Both cost" if len(leading) == 2 else "All of them cost"
        return [f"{both} {prices[0]}; they predict: {_joined(networks)}."]
    names = [_name(row, rows) for row in leading]
    parts = [f"{n} costs {p} and predicts with {_networks(r)}" for n, p, r in zip(names, prices, leading, strict=True)]
    return [f"{'; '.join(parts)}."]


def _price(row: Row) -> str:
    spent = row.values[FINE_TUNINGS].mean
    text = f"{spent:.2f} fine-tunings"
    if BY_TIME in row.numbers and costs_differ(spent, row.values[BY_TIME].mean):
        text += f" by FLOPs, {row.values[BY_TIME].mean:.2f} by time"
    return text


def _networks(row: Row) -> str:
    counts = sorted({int(count) for count in row.numbers.get(NETWORKS, {}).values()})
    if not counts:
        return "an unknown number of networks"
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} network{'' if counts == [1] else 's'}"


def _at_budgets(comparison: Comparison, frontier: Frontier) -> list[str]:
    """Return the sentences on strategies at several budgets, each against the best rival of its budget."""
    found: dict[str, list[tuple[Point, Difference]]] = {"better": [], "worse": [], "apart": []}
    unknown = 0
    for point in frontier.points:
        lead = frontier.lead(point, CALIBRATED, higher_is_better=False)
        if lead is not None and _measured(lead):
            found[_kind(lead, _NLL) if lead.significant else "apart"].append((point, lead))
        else:
            unknown += point.role != "rival"
    sentences = [_better(found["better"]), _worse(frontier, found["worse"], len(found["apart"]), unknown)]
    return sentences + _best(comparison, frontier)


def _better(better: Sequence[tuple[Point, Difference]]) -> str:
    if not better:
        return "At equal cost, no strategy is better than the best rival in calibrated NLL."
    parts = []
    for name in dict.fromkeys(point.strategy for point, _ in better):
        own = [(point, d) for point, d in better if point.strategy == name]
        most = min((d for _, d in own), key=lambda d: d.mean)
        budgets = _joined([f"{point.budget:g}" for point, _ in own])
        parts.append(f"{name} with a budget of {budgets} ({_by(most, _NLL, 'up to ' if len(own) > 1 else '')})")
    return f"At equal cost, better than the best rival in calibrated NLL: {_several(parts)}."


def _worse(frontier: Frontier, worse: Sequence[tuple[Point, Difference]], apart_from: int, unknown: int) -> str:
    parts = []
    for name in dict.fromkeys(point.strategy for point, _ in worse):
        own = [f"{point.budget:g}" for point, _ in worse if point.strategy == name]
        everywhere = len(own) == len(frontier.line(name)) > 1
        parts.append(f"{name} with {'every budget' if everywhere else f'a budget of {_joined(own)}'}")
    text = f"Worse: {_several(parts)}" if parts else "None is worse"
    rest = [f"{apart_from} cannot be told apart"] * bool(apart_from) + [f"{unknown} have no interval"] * bool(unknown)
    return f"{text}; of the other points, {' and '.join(rest)}." if rest else f"{text}."


def _best(comparison: Comparison, frontier: Frontier) -> list[str]:
    """Return the sentence on the best point of all, the cheapest like it, and how far they are from the baseline."""
    known = [point for point in frontier.points if CALIBRATED in point.numbers]
    if not known:
        return []
    best = min(known, key=_calibrated)
    text = f"{_place(best)} has the lowest calibrated NLL of all ({_calibrated(best):.3f})"
    baseline = next((r for row in comparison.rows if (r := comparison.reference(row)) and of_baseline(r)), None)
    if baseline is not None:
        d = paired_difference(best.numbers[CALIBRATED], baseline.numbers.get(CALIBRATED, {}))
        if d is not None and _measured(d) and d.significant:
            text += f", {_kind(d, _NLL)} than {name_of(baseline)}, {_by(d, _NLL)}"
    cheapest = min((p for p in known if p is best or _ties(p, best)), key=_spent)
    if _spent(cheapest) < (1 - SAME) * _spent(best):
        text += f"; the cheapest that cannot be told apart from it is {_place(cheapest)}"
    return [f"{text}."]


def _place(point: Point) -> str:
    return f"{point.strategy} at {_spent(point):.3g} fine-tunings"


def _calibrated(point: Point) -> float:
    return point.spread(CALIBRATED).mean


def _spent(point: Point) -> float:
    return point.spread(FINE_TUNINGS).mean if FINE_TUNINGS in point.numbers else point.budget


def _ties(point: Point, best: Point) -> bool:
    difference = paired_difference(point.numbers[CALIBRATED], best.numbers[CALIBRATED])
    return _includes_zero(difference)


def _several(items: Sequence[str]) -> str:
    """Join names to a list; the many that a sentence has no room for are counted."""
    return _joined([*items[:NAMED], f"{len(items) - NAMED} more"] if len(items) > NAMED + 1 else items)


def _joined(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
