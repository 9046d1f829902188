"""Say in at most three sentences what a comparison has found, from paired intervals alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.frontier import Frontier
from ensemble_transfer.report.reference import SAME, best_of, name_of, of_baseline
from ensemble_transfer.report.rows import (
    BY_TIME,
    CALIBRATED,
    FINE_TUNINGS,
    NAMED,
    NETWORKS,
    Column,
    Row,
    Task,
    by_task,
    costs_differ,
)
from ensemble_transfer.report.statistics import Difference, paired_difference

MOST = 4
"""Rows that a sentence names, at most."""

_MEASURES = (CALIBRATED, "NLL", "accuracy")
"""What decides: the first of them that most rows have."""


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
    tasks = by_task(comparison.rows)
    return [
        Finding(dict(task)["dataset"], _task_name(task, tasks), tuple(_of(comparison, rows)))
        for task, rows in tasks.items()
    ]


def _task_name(task: Task, tasks: Iterable[Task]) -> str:
    """Return the pair of a task, with the settings that differ among tasks of that pair."""
    apart = sorted(item for item in task if any(item not in other for other in tasks))
    settings = ", ".join(f"{name.removeprefix('dataset.')}={value}" for name, value in apart)
    pair = dict(task)["dataset"]
    return f"{pair} ({settings})" if settings else pair


def _of(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """Return the sentences on the rows of one task; rows without the number that decides are only named."""
    column = NAMED[max(_MEASURES, key=lambda name: sum(name in row.numbers for row in rows))]
    known = [row for row in rows if column.name in row.numbers]
    if len(known) < 2:
        return ["One row alone: there is nothing to compare it with." if known else "No row has a number to compare."]
    sentences = _against_reference(comparison, known, column)
    first, tied = _leading(known, column)
    word = "highest" if column.higher_is_better else "lowest"
    best = f"{_name(first, rows)} has the {word} {column.name} ({first.mean(column.name):.{column.digits}f})"
    if not sentences:
        return [f"No difference has an interval, so nothing can be told apart. {best}.", *_costs([first], rows)]
    if tied:
        best += f"; {_several([_name(row, rows) for row in tied])} cannot be told apart from it"
    if len(known) < len(rows):
        lacking = _several([_name(row, rows) for row in rows if column.name not in row.numbers])
        best += f" (without {lacking}, for lack of numbers)"
    return [*sentences, f"{best}.", *_costs([first, *tied], rows)]


def _budgets(rows: Iterable[Row]) -> set[float]:
    return {row.budget for row in rows if row.budget is not None}


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's label, without the budget where all rows that have one share it, since it is said once."""
    short = _without_budget(row)
    alone = [_without_budget(other) for other in rows].count(short) == 1
    return short if alone and len(_budgets(rows)) == 1 else row.label


def _without_budget(row: Row) -> str:
    strategy, _, settings = row.label.removesuffix(")").partition(" (")
    kept = [part for part in settings.split(", ") if part and part != "no budget" and not part.startswith("budget=")]
    return f"{strategy} ({', '.join(kept)})" if kept else strategy


def _leading(rows: Sequence[Row], column: Column) -> tuple[Row, list[Row]]:
    """Return the row with the best mean, and those whose interval of the difference to it includes zero."""
    first = best_of(rows, column.name, bool(column.higher_is_better)) or rows[0]
    return first, [row for row in rows if row is not first and _tied(row, first, column)]


def _tied(row: Row, other: Row, column: Column) -> bool:
    """Return whether the difference of two rows has an interval, and it includes zero."""
    found = paired_difference(row.numbers[column.name], other.numbers[column.name])
    return _kind(found, column) == "apart"


def _kind(found: Difference | None, column: Column) -> str:
    """Return what an interval says: better, worse, or that it includes zero; ``unknown`` if there is none."""
    if found is None or math.isnan(found.low):
        return "unknown"
    if not found.significant:
        return "apart"
    return "better" if (found.mean > 0) == bool(column.higher_is_better) else "worse"


def _against_reference(comparison: Comparison, rows: Sequence[Row], column: Column) -> list[str]:
    """Return the sentence that sets rows against the baseline; none where nothing has an interval."""
    groups: dict[str, list[tuple[Row, Difference]]] = {}
    references = []
    for row in rows:
        reference, difference = comparison.reference(row), comparison.difference(row, column)
        kind = _kind(difference, column)
        if reference is not None and difference is not None and kind != "unknown":
            references.append(reference)
            groups.setdefault(kind, []).append((row, difference))
    if not references:
        return []
    parts = [_differ(groups[kind], kind, column, rows) for kind in ("better", "worse") if kind in groups]
    if "apart" in groups:
        parts.append(f"{_several([_name(row, rows) for row, _ in groups['apart']])} cannot be told apart from it")
    names = list(dict.fromkeys(map(name_of, references)))
    rivals = {row.role for row in references} == {"rival"}
    each = "the best rival of its budget" if rivals else "its baseline"
    budgets = _budgets(rows)
    budget = f" with a budget of {budgets.pop():g} fine-tunings" if len(budgets) == 1 else ""
    seeds = _range({d.n for found in groups.values() for _, d in found})
    against = names[0] if len(names) == 1 else each
    return [f"Against {against}, in {column.name}{budget}, over {seeds} seeds: {'; '.join(parts)}."]


def _differ(found: Sequence[tuple[Row, Difference]], kind: str, column: Column, rows: Sequence[Row]) -> str:
    if len(found) == 1:
        [(row, difference)] = found
        return f"{_name(row, rows)} is {kind} {_by(difference, column)}"
    return f"{_several([f'{_name(row, rows)} ({_by(d, column)})' for row, d in found])} are {kind}"


def _by(difference: Difference, column: Column, most: str = "") -> str:
    """Return how large a difference is, as a positive number with its interval."""
    low, high = sorted(math.copysign(1, difference.mean) * end for end in (difference.low, difference.high))
    digits = column.digits
    return f"by {most}{abs(difference.mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _costs(leading: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return the sentence on what the leading rows cost to train and to predict, or the cheapest of many."""
    if not all(FINE_TUNINGS in row.numbers for row in leading):
        return []
    if len(leading) > MOST:
        cheapest = min(leading, key=_spent)
        return [f"The cheapest of these is {_name(cheapest, rows)}: {_price(cheapest)}, {_networks(cheapest)}."]
    prices = {_price(row) for row in leading}
    if len(prices) == 1 < len(leading):
        networks = [f"{_name(row, rows)} with {_networks(row)}" for row in leading]
        both = "Both cost" if len(leading) == 2 else "All of them cost"
        return [f"{both} {prices.pop()}; they predict: {_joined(networks)}."]
    parts = (f"{_name(row, rows)} costs {_price(row)} and predicts with {_networks(row)}" for row in leading)
    return [f"{'; '.join(parts)}."]


def _price(row: Row) -> str:
    spent, by_time = _spent(row), row.mean(BY_TIME)
    text = f"{spent:.2f} fine-tunings"
    return f"{text} by FLOPs, {by_time:.2f} by time" if costs_differ(spent, by_time) else text


def _networks(row: Row) -> str:
    counts = {int(count) for count in row.numbers.get(NETWORKS, {}).values()}
    if not counts:
        return "an unknown number of networks"
    return f"{_range(counts)} network{'' if counts == {1} else 's'}"


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _at_budgets(comparison: Comparison, frontier: Frontier) -> list[str]:
    """Return the sentences on strategies at several budgets, each against the best rival of its budget."""
    found: dict[str, list[tuple[Row, Difference]]] = {"better": [], "worse": [], "apart": []}
    unknown = 0
    for point in frontier.points:
        lead = frontier.lead(point, NAMED[CALIBRATED])
        kind = _kind(lead, NAMED[CALIBRATED])
        if lead is not None and kind != "unknown":
            found[kind].append((point, lead))
        else:
            unknown += point.role != "rival"
    sentences = [_better(found["better"]), _worse(frontier, found["worse"], len(found["apart"]), unknown)]
    return sentences + _best(comparison, frontier)


def _better(better: Sequence[tuple[Row, Difference]]) -> str:
    if not better:
        return "At equal cost, no strategy is better than the best rival in calibrated NLL."
    parts = []
    for name in dict.fromkeys(point.label for point, _ in better):
        own = [(point, d) for point, d in better if point.label == name]
        most = min((d for _, d in own), key=lambda d: d.mean)
        budgets = _joined([f"{point.budget:g}" for point, _ in own])
        parts.append(f"{name} with a budget of {budgets} ({_by(most, NAMED[CALIBRATED], 'up to ' * (len(own) > 1))})")
    return f"At equal cost, better than the best rival in calibrated NLL: {_several(parts)}."


def _worse(frontier: Frontier, worse: Sequence[tuple[Row, Difference]], apart: int, unknown: int) -> str:
    parts = []
    for name in dict.fromkeys(point.label for point, _ in worse):
        own = [f"{point.budget:g}" for point, _ in worse if point.label == name]
        everywhere = len(own) == sum(point.label == name for point in frontier.points) > 1
        parts.append(f"{name} with {'every budget' if everywhere else f'a budget of {_joined(own)}'}")
    text = f"Worse: {_several(parts)}" if parts else "None is worse"
    rest = [f"{apart} cannot be told apart"] * bool(apart) + [f"{unknown} have no interval"] * bool(unknown)
    return f"{text}; of the other points, {' and '.join(rest)}." if rest else f"{text}."


def _best(comparison: Comparison, frontier: Frontier) -> list[str]:
    """Return the sentence on the best point of all, the cheapest like it, and how far they are from the baseline."""
    column = NAMED[CALIBRATED]
    known = [point for point in frontier.points if CALIBRATED in point.numbers]
    if not known:
        return []
    best = min(known, key=lambda point: point.mean(CALIBRATED))
    text = f"{_place(best)} has the lowest calibrated NLL of all ({best.mean(CALIBRATED):.3f})"
    baseline = next((r for row in comparison.rows if (r := comparison.reference(row)) and of_baseline(r)), None)
    if baseline is not None:
        lead = paired_difference(best.numbers[CALIBRATED], baseline.numbers.get(CALIBRATED, {}))
        if lead is not None and (kind := _kind(lead, column)) in ("better", "worse"):
            text += f", {kind} than {name_of(baseline)}, {_by(lead, column)}"
    cheapest = min((p for p in known if p is best or _tied(p, best, column)), key=_spent)
    if _spent(cheapest) < (1 - SAME) * _spent(best):
        text += f"; the cheapest that cannot be told apart from it is {_place(cheapest)}"
    return [f"{text}."]


def _place(point: Row) -> str:
    return f"{point.label} at {_spent(point):.3g} fine-tunings"


def _spent(row: Row) -> float:
    return row.mean(FINE_TUNINGS)


def _several(items: Sequence[str]) -> str:
    """Join names to a list; the many that a sentence has no room for are counted."""
    return _joined([*items[:MOST], f"{len(items) - MOST} more"] if len(items) > MOST + 1 else items)


def _joined(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
