"""Which classes an ensemble takes for which: the confusion matrix of a row, summed over its seeds."""

import math
from collections.abc import Sequence

import numpy as np

from ensemble_transfer.report.reference import of_baseline
from ensemble_transfer.report.rows import BASELINE, CALIBRATED, Row
from ensemble_transfer.report.tables import Cell, Table, words

_RANKS = ("most frequent", "second", "third")
"""Headings of the confusions that are named for each strategy."""


def counts_of(row: Row) -> np.ndarray:
    """Return the test examples of class i that are predicted as class j in line i, column j: (C, C)."""
    counts: np.ndarray = np.sum([run.curves["confusion"] for run in row.runs], axis=0)
    return counts


def classes_of(row: Row) -> list[str]:
    """Return the names of the classes of a row with a matrix; their numbers where its records have no names."""
    count = len(row.runs[0].curves["confusion"])
    named = row.runs[0].ensemble.get("classes") or ()
    return [str(name) for name in (named if len(named) == count else range(count))]


def shares_of(row: Row) -> "np.ma.MaskedArray":
    """Return the shares of each class that are predicted as another: (C, C), what is right masked."""
    counts = counts_of(row)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.ma.masked_array(shares, mask=np.eye(len(shares), dtype=bool))


def has_confusion(row: Row) -> bool:
    """Return whether all runs of a row have a confusion matrix, of the same classes."""
    sizes = {len(run.curves.get("confusion") or ()) for run in row.runs}
    return len(sizes) == 1 and 0 not in sizes


def best_of_each_strategy(rows: Sequence[Row]) -> list[Row]:
    """Return the baseline, and a row for each strategy: that with the lowest calibrated NLL, where it is known."""
    best: dict[str, Row] = {}
    for row in rows:
        name = BASELINE if of_baseline(row) else row.strategy
        best[name] = min(best.get(name, row), row, key=_nll)
    return list(best.values())


def _nll(row: Row) -> float:
    return row.mean(CALIBRATED) if CALIBRATED in row.numbers else math.inf


def confusion_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the largest confusions of each row, and the accuracy on each class, the hardest first.

    Args:
        rows: Rows of one task; those without a matrix, or with other classes than the first, are left out.
    """
    able = [row for row in rows if has_confusion(row)]
    able = [row for row in able if classes_of(row) == classes_of(able[0])]
    if not able:
        return []
    largest = [
        {"strategy": words(row.label)} | dict(zip(_RANKS, map(words, _largest(row)), strict=True)) for row in able
    ]
    accuracies = np.array([_accuracies(row) for row in able])
    hardest = np.argsort(np.nan_to_num(accuracies.mean(axis=0), nan=2.0), kind="stable")
    labels, classes = [row.label for row in able], classes_of(able[0])
    by_class = [
        {"class": words(classes[place])} | dict(zip(labels, map(_share, accuracies[:, place]), strict=True))
        for place in hardest
    ]
    return [Table("Largest confusions", largest), Table("Accuracy on each class, the hardest first", by_class)]


def _largest(row: Row) -> list[str]:
    """Return the most frequent confusions, as ``class → prediction (share of the class)``; dashes if there are none."""
    shares, classes = shares_of(row), classes_of(row)
    wrong = np.where(shares.mask, 0, counts_of(row))
    order = np.argsort(-wrong, axis=None, kind="stable")[: len(_RANKS)]
    pairs = [divmod(int(place), len(classes)) for place in order]
    found = [f"{classes[i]} → {classes[j]} ({shares[i, j]:.0%} of {classes[i]})" for i, j in pairs if wrong[i, j]]
    return [*found, *["-"] * len(_RANKS)][: len(_RANKS)]


def _accuracies(row: Row) -> np.ndarray:
    """Return the accuracy on each class; NaN for a class without examples."""
    counts = counts_of(row)
    examples = counts.sum(axis=1)
    return np.where(examples > 0, counts.diagonal() / np.maximum(examples, 1), np.nan)


def _share(value: float) -> Cell:
    return Cell("-" if np.isnan(value) else f"{value:.3f}", float(value))
