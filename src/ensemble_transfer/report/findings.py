"""Say in at most three sentences what a comparison has found, from paired intervals alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ensemble_transfer.report.comparison import Comparison
from ensemble_transfer.report.reference import Frontier, best_of, name_of, of_baseline, on_frontier
from ensemble_transfer.report.rows import (
    BY_TIME,
    CALIBRATED,
    FINE_TUNINGS,
    NAMED,
    NETWORKS,
    Row,
    Task,
    by_task,
    costs_differ,
)
from ensemble_transfer.report.statistics import Difference, paired_difference

MOST = 4
"""Rows that a sentence names, at most."""


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
    frontier = _contest(comparison)
    if frontier is not None:
        [pair] = pairs
        placed = {row.label for row in on_frontier(comparison.rows)}
        others = [row for row in comparison.rows if row.label not in placed]
        sentences = _of(comparison, [*frontier.points, *others])
        if len(budgets := {point.budget for point in frontier.points}) == 1:  # the tables tell it
            sentences = [sentence.replace(f" at budget {budgets.copy().pop():g}", "") for sentence in sentences]
        return [Finding(pair, pair, tuple(sentences))]
    tasks = by_task(comparison.rows)
    return [
        Finding(dict(task)["dataset"], _task_name(task, tasks), tuple(_of(comparison, rows)))
        for task, rows in tasks.items()
    ]


def _contest(comparison: Comparison) -> Frontier | None:
    """Return the frontier that rows are set against; None where the user has named another baseline."""
    return comparison.frontier if comparison.baseline is None else None


def _task_name(task: Task, tasks: Iterable[Task]) -> str:
    """Return the pair of a task, with the settings that differ among tasks of that pair."""
    apart = sorted(item for item in task if any(item not in other for other in tasks))
    settings = ", ".join(f"{name.removeprefix('dataset.')}={value}" for name, value in apart)
    pair = dict(task)["dataset"]
    return f"{pair} ({settings})" if settings else pair


def _of(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """Return the sentences on rows that may be compared: what is better and worse, what is best, what that costs."""
    known = [row for row in rows if CALIBRATED in row.numbers]
    best = best_of(known, CALIBRATED)
    if best is None or len(known) < 2:
        return [f"Fewer than two rows have a {CALIBRATED}: there is nothing to compare."]
    if all(len(row.seeds) == 1 for row in known):
        return _meanwhile(best, known)
    own = best.numbers[CALIBRATED]
    tied = [r for r in known if r is not best and _kind(paired_difference(r.numbers[CALIBRATED], own)) == "apart"]
    fewer = [row for row in known if len(row.seeds) < len(best.seeds)]
    text = f"Of the rows with {len(best.seeds)} seeds, " if fewer else ""
    text += f"{_named([best])} has the lowest {CALIBRATED} ({best.mean(CALIBRATED):.3f})"
    said = _compared(comparison, known)  # of whom the first sentence has told
    if named := [row for row in tied if not {(row.label, best.label), (best.label, row.label)} & said]:
        text += f"; {_named(named)} cannot be told apart from it"
    if len(known) < len(rows):
        lacking = [row for row in rows if CALIBRATED not in row.numbers]
        text += f" (without {_named(lacking)}, for lack of numbers)"
    return [_against_reference(comparison, known), f"{text}.", *_costs([best, *tied])]


def _meanwhile(best: Row, rows: Sequence[Row]) -> list[str]:
    """Return what is said of one seed: the best by it, and what to take until more seeds decide."""
    priced = [row for row in rows if row.numbers.keys() >= {FINE_TUNINGS, NETWORKS}] or [best]
    cheapest = min(priced, key=lambda row: (row.mean(NETWORKS), row.mean(FINE_TUNINGS)))
    take = next(filter(of_baseline, rows), cheapest)
    why = "the baseline" if of_baseline(take) else f"{_named([take])}, the cheapest to predict with"
    return [
        f"One seed: the best by {CALIBRATED} is {_named([best])} ({best.mean(CALIBRATED):.3f}), not a finding.",
        f"Until more seeds decide, take {why}.",
        *_costs([best] if take is best else [best, take]),
    ]


def _compared(comparison: Comparison, rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Return the labels of rows with those of what the first sentence sets them against."""
    frontier, column = _contest(comparison), NAMED[CALIBRATED]
    if frontier is None:
        return {(row.label, other.label) for row in rows if (other := comparison.reference(row)) is not None}
    led = [row for row in rows if frontier.lead(row, column) is not None]
    return {(row.label, other.label) for row in led if (other := frontier.rival(row.budget, column)) is not None}


def _against_reference(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Return the sentence that sets rows against the baseline, or points of a frontier against the best rivals."""
    frontier, column = _contest(comparison), NAMED[CALIBRATED]
    found: dict[str, list[tuple[Row, Difference]]] = {"better": [], "worse": [], "apart": [], "unknown": []}
    for row in rows:
        difference = comparison.difference(row, column) if frontier is None else frontier.lead(row, column)
        if difference is not None:
            found[_kind(difference)].append((row, difference))
    seeds = {difference.n for kind, own in found.items() if kind != "unknown" for _, difference in own}
    if not seeds:
        return "No difference has an interval, so nothing can be told apart."
    parts = [f"better: {_listed(found['better'])}" if found["better"] else "nothing is better"]
    parts += [f"worse: {_listed(found['worse'])}"] if found["worse"] else []
    parts += [f"not to be told apart: {_named([row for row, _ in found['apart']])}"] if found["apart"] else []
    parts += [f"without an interval: {_named([row for row, _ in found['unknown']])}"] if found["unknown"] else []
    against = _reference_name(comparison, rows)
    return f"Against {against}, in {CALIBRATED}, over {_range(seeds)} seeds: {'; '.join(parts)}."


def _reference_name(comparison: Comparison, rows: Sequence[Row]) -> str:
    if _contest(comparison) is not None:
        return "the best rival of its budget"
    names = {name_of(reference) for row in rows if (reference := comparison.reference(row)) is not None}
    return names.pop() if len(names) == 1 else "its baseline"


def _kind(found: Difference | None) -> str:
    """Return what an interval says: better, worse, or that it includes zero; ``unknown`` if there is none."""
    if found is None or math.isnan(found.low):
        return "unknown"
    if not found.significant:
        return "apart"
    return "better" if found.mean < 0 else "worse"


def _costs(leading: Sequence[Row]) -> list[str]:
    """Return the sentence on what the leading rows cost to train and to predict, or the cheapest of many."""
    known = [row for row in leading if row.numbers.keys() >= {FINE_TUNINGS, NETWORKS}]
    if not known:
        return []
    if len(known) > MOST:
        return [f"The cheapest of these: {_price(min(known, key=lambda row: row.mean(FINE_TUNINGS)))}."]
    return [f"{'; '.join(map(_price, known))}."]


def _price(row: Row) -> str:
    spent, by_time = row.mean(FINE_TUNINGS), row.mean(BY_TIME)
    price = f"{spent:.2f} fine-tunings"
    price += f" by FLOPs, {by_time:.2f} by time," if costs_differ(spent, by_time) else ""
    networks = _range({int(count) for count in row.numbers[NETWORKS].values()})
    return f"{_named([row])} costs {price} and predicts with {networks} network{'' if networks == '1' else 's'}"


def _range(counts: set[int]) -> str:
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))


def _named(rows: Sequence[Row]) -> str:
    return _listed([(row, None) for row in rows])


def _listed(found: Sequence[tuple[Row, Difference | None]]) -> str:
    """Join the names of rows to a list, each with how large its difference is; the many at its end are counted.

    A strategy at several budgets is named once, with them and its largest difference.
    """
    groups: dict[str, list[tuple[Row, Difference | None]]] = {}
    for row, difference in found:
        groups.setdefault(row.label, []).append((row, difference))
    items = []
    for label, own in groups.items():
        budgets = [f"{row.budget:g}" for row, _ in own if row.budget is not None and "budget=" not in label]
        name = f"{label} at budget{'s' * (len(budgets) > 1)} {_joined(budgets)}" if budgets else label
        largest = max((d for _, d in own if d is not None), key=lambda d: abs(d.mean), default=None)
        items.append(name if largest is None else f"{name} (by {'up to ' * (len(own) > 1)}{_size(largest)})")
    return _joined([*items[:MOST], f"{len(items) - MOST} more"] if len(items) > MOST + 1 else items)


def _size(difference: Difference) -> str:
    """Return a difference as a positive number with its interval."""
    low, high = sorted(math.copysign(1, difference.mean) * end for end in (difference.low, difference.high))
    return f"{abs(difference.mean):.3f} [{low:.3f}, {high:.3f}]"


def _joined(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
