"""The baseline of comparisons, one member fully fine-tuned, and the row that each row is compared with."""

from collections.abc import Iterable, Sequence

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import CALIBRATED, Row, by_task

SAME = 0.02
"""Costs that differ by no more than this share of one count as equal."""


def is_baseline(record: Record) -> bool:
    """Return whether a run is the baseline: a rival of one member, at the cost of one fine-tuning."""
    spent = (record.cost.get("total") or {}).get("fine_tunings")
    unstretched = record.config.get("budget") is None or (spent is not None and abs(spent - 1) <= SAME)
    return record.known_role == "rival" and record.ensemble.get("size") == 1 and unstretched


def of_baseline(row: Row) -> bool:
    """Return whether a row is the baseline: one member, fully fine-tuned."""
    return all(map(is_baseline, row.runs))


def name_of(reference: Row) -> str:
    """Return what a row that others are compared with is called in a sentence."""
    return "one member, fully fine-tuned" if of_baseline(reference) else reference.label


def references(rows: Iterable[Row], named: str | None = None) -> dict[str, Row | None]:
    """Return the row that each row is compared with, by label: of the same task, and nearest in its other settings.

    It is the baseline: one member, fully fine-tuned. Without one it is the best rival of the row's
    budget, if any has it, by calibrated NLL; then the reference; then the first row.

    Args:
        rows: Rows.
        named: Label or strategy of the row to compare with instead; None if the row's task has no such row.
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
    rivals = [r for r in rows if r.role == "rival" and CALIBRATED in r.numbers]
    best = best_of([r for r in rivals if r.budget == row.budget] or rivals, CALIBRATED)
    return [best] if best else []


def best_of(rows: Iterable[Row], column: str, higher_is_better: bool = False) -> Row | None:
    """Return the row with the best mean of a column, of those with the most seeds; None if no row has it."""
    known = [row for row in rows if column in row.numbers]
    most = max((len(row.seeds) for row in known), default=0)
    sign = 1 if higher_is_better else -1
    complete = [row for row in known if len(row.seeds) == most]
    return max(complete, key=lambda row: sign * row.mean(column), default=None)
