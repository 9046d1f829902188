"""Which classes an ensemble takes for which: the confusion matrix of a row, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ensemble_transfer.report.rows import CALIBRATED, Row
from ensemble_transfer.report.tables import Cell, Table, words

LARGEST = 3
"""Confusions that are named for each strategy."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of test examples by class and prediction, summed over seeds.

    Attributes:
        classes: Names of the classes; their numbers where the records have no names.
        counts: Class i predicted as class j in row i, column j: (C, C).
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, row: Row) -> "Confusion":
        """Return the matrix of a row that has one; see :func:`has_confusion`."""
        counts = np.sum([run.curves["confusion"] for run in row.runs], axis=0)
        named = row.runs[0].ensemble.get("classes") or ()
        return cls(tuple(map(str, named if len(named) == len(counts) else range(len(counts)))), counts)

    @cached_property
    def shares(self) -> "np.ma.MaskedArray":
        """Shares of each class that are predicted as another: (C, C), what is right masked."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return np.ma.masked_array(shares, mask=np.eye(len(shares), dtype=bool))

    @property
    def accuracy(self) -> list[float]:
        """Accuracy on each class; NaN for a class without examples."""
        examples = self.counts.sum(axis=1)
        shares = np.where(examples > 0, self.counts.diagonal() / np.maximum(examples, 1), np.nan)
        return [float(share) for share in shares]

    def largest(self) -> list[str]:
        """Return the most frequent confusions, as ``class → prediction (share of the class)``."""
        wrong = np.where(self.shares.mask, 0, self.counts)
        order = np.argsort(-wrong, axis=None, kind="stable")[:LARGEST]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [
            f"{self.classes[i]} → {self.classes[j]} ({self.shares[i, j]:.0%} of {self.classes[i]})"
            for i, j in pairs
            if wrong[i, j]
        ]


def has_confusion(row: Row) -> bool:
    """Return whether all runs of a row have a confusion matrix, of the same classes."""
    sizes = {len(run.curves.get("confusion") or ()) for run in row.runs}
    return len(sizes) == 1 and 0 not in sizes


def best_of_each_strategy(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each strategy: that with the lowest calibrated NLL, where it is known."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.strategy not in best or _nll(row) < _nll(best[row.strategy]):
            best[row.strategy] = row
    return list(best.values())


def _nll(row: Row) -> float:
    return row.values[CALIBRATED].mean if CALIBRATED in row.numbers else float("inf")


def confusion_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the largest confusions of each row, and the accuracy on each class, the hardest first.

    Args:
        rows: Rows of one task; those without a matrix, or with other classes than the first, are left out.
    """
    known = [(row, Confusion.of(row)) for row in rows if has_confusion(row)]
    known = [(row, found) for row, found in known if found.classes == known[0][1].classes]
    if not known:
        return []
    ranks = ["most frequent", "second", "third"]
    lines = []
    for row, found in known:
        texts = [*found.largest(), *["-"] * LARGEST][:LARGEST]
        lines.append({"strategy": words(row.label)} | dict(zip(ranks, map(words, texts), strict=True)))
    accuracies = np.array([found.accuracy for _, found in known])
    order = np.argsort(np.nan_to_num(accuracies.mean(axis=0), nan=2.0), kind="stable")
    by_class = [
        {"class": words(known[0][1].classes[index])}
        | {row.label: _share(found.accuracy[index]) for row, found in known}
        for index in order
    ]
    return [Table("Largest confusions", lines), Table("Accuracy on each class, the hardest first", by_class)]


def _share(value: float) -> Cell:
    return Cell("-" if value != value else f"{value:.3f}", value)
