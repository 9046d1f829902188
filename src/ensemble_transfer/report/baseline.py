"""The baseline of comparisons: one member, fully fine-tuned and calibrated."""

from ensemble_transfer.report.record import Record


def is_baseline(record: Record) -> bool:
    """Return whether a run is the baseline: strategy ``few`` with one member, whose recipe no budget stretches.

    A budget of one fine-tuning leaves the recipe as it is.
    """
    one = record.strategy == "few" and record.ensemble.get("size") == 1
    return one and record.config.get("budget") in (None, 1)
