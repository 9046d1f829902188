"""Choose the row that each row of a comparison is compared with."""

from collections.abc import Iterable, Sequence

from ensemble_transfer.report.baseline import is_baseline
from ensemble_transfer.report.frontier import budget_of
from ensemble_transfer.report.rows import CALIBRATED, Row


def references(rows: Iterable[Row], named: str | None = None) -> dict[str, Row | None]:
    """Return the row that each row is compared with, by label: of the same task, and nearest in its other settings.

    It is the baseline: one member, fully fine-tuned. Without one it is the best rival of the row's
    budget, if any has it, by calibrated NLL; then the reference; then the first row.

    Args:
        rows: Rows.
        named: Label or strategy of the row to compare with instead; None if the row's task has no such row.
    """
    tasks: dict[frozenset[tuple[str, str]], list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return {row.label: _reference(row, own, named) for own in tasks.values() for row in own}


def name_of(reference: Row) -> str:
    """Return what a row that others are compared with is called in a sentence."""
    return "one member, fully fine-tuned" if of_baseline(reference) else reference.label


def of_baseline(row: Row) -> bool:
    """Return whether a row is the baseline: one member, fully fine-tuned."""
    return all(map(is_baseline, row.runs))


def _reference(row: Row, rivals: Sequence[Row], named: str | None) -> Row | None:
    if named is not None:
        return _nearest(row, [r for r in rivals if r.label == named] or [r for r in rivals if r.strategy == named])
    found = list(filter(of_baseline, rivals)) or _best_rival(row, rivals)
    return _nearest(row, found or [r for r in rivals if r.role == "reference"] or rivals[:1])


def _best_rival(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return the rival with the lowest calibrated NLL, of those with the most seeds; empty without any."""
    rivals = [r for r in rows if r.role == "rival" and CALIBRATED in r.numbers]
    equal = [r for r in rivals if budget_of(r) == budget_of(row)] or rivals
    most = max((len(r.seeds) for r in equal), default=0)
    complete = [r for r in equal if len(r.seeds) == most]
    return [min(complete, key=lambda r: r.values[CALIBRATED].mean)] if complete else []


def _nearest(row: Row, found: Sequence[Row]) -> Row | None:
    return max(found, key=lambda other: len(other.settings.items() & row.settings.items()), default=None)
