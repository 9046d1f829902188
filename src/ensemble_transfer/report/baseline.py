"""The baseline of comparisons: one member, fully fine-tuned and calibrated."""

from ensemble_transfer.report.record import Record

SAME = 0.02
"""Costs that differ by no more than this share of one count as equal."""


def is_baseline(record: Record) -> bool:
    """Return whether a run is the baseline: a rival of one member, at the cost of one fine-tuning."""
    spent = (record.cost.get("total") or {}).get("fine_tunings")
    unstretched = record.config.get("budget") is None or (spent is not None and abs(spent - 1) <= SAME)
    return record.known_role == "rival" and record.ensemble.get("size") == 1 and unstretched
