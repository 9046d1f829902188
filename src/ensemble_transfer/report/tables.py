"""Tables of a comparison: one data frame of cells each, from which Markdown, LaTeX, CSV and the page are made."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ensemble_transfer.report import latex
from ensemble_transfer.report.escape import csv_cell, markdown_cell
from ensemble_transfer.report.statistics import Difference, Spread

if TYPE_CHECKING:
    from pandas import DataFrame

_NOWHERE = Difference(math.nan, math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Cell:
    """What a table shows in one place.

    Attributes:
        text: The text, a number with its interval or deviation.
        value: What a table is sorted by; NaN for a number that is not known.
        best: Whether it is marked as significantly best.
        numbers: All digits, by what they are, for files that programs read.
    """

    text: str
    value: float | str = math.nan
    best: bool = False
    numbers: Mapping[str, float | str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    @property
    def lines(self) -> tuple[str, str]:
        """The number, and its deviation or interval, which may be empty."""
        for separator in (" ± ", " ["):
            first, found, rest = self.text.partition(separator)
            if found:
                return first, f"{separator.strip()} {rest}" if separator == " ± " else f"[{rest}"
        return self.text, ""


def words(text: str) -> Cell:
    """Return a cell of words."""
    return Cell(text, text)


def count(value: int) -> Cell:
    """Return a cell of a number that is exact."""
    return Cell(str(value), value)


def spread(found: Spread | None, text: str, best: bool = False) -> Cell:
    """Return a cell of a mean with its deviation."""
    mean, std = (found.mean, found.std) if found else (math.nan, math.nan)
    return Cell(text, mean, best, {"mean": mean, "std": std})


def difference(found: Difference | None, digits: int) -> Cell:
    """Return a cell of a paired difference with its interval."""
    d = found or _NOWHERE
    numbers = {"difference": d.mean, "low": d.low, "high": d.high, "p": d.p, "difference n": d.n}
    return Cell("-" if found is None else found.text(digits), d.mean, False, numbers)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    head = list(header)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Heading.
        lines: Cells by column, a mapping for each line; the first columns hold words.
        ascending: Columns of which the lowest value comes first when the page sorts.
        groups: For each line, what the page's filters look at: ``pair`` and ``budget``.
    """

    title: str
    lines: Sequence[Mapping[str, Cell]]
    ascending: frozenset[str] = frozenset()
    groups: Sequence[Mapping[str, str]] = ()

    @cached_property
    def frame(self) -> "DataFrame":
        """The cells, a row for each line."""
        from pandas import DataFrame

        return DataFrame(self.lines, dtype=object)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.lines[0]) if self.lines else []

    @property
    def rows(self) -> list[tuple[Mapping[str, str], list[Cell]]]:
        """Groups and cells of each line."""
        groups = self.groups or [{} for _ in self.lines]
        return [(group, list(line)) for group, line in zip(groups, self.frame.itertuples(index=False), strict=True)]

    def markdown(self) -> str:
        """Return the table as Markdown, its first column to the left and the others to the right."""
        rows = self.frame.map(lambda c: f"**{markdown_cell(str(c))}**" if c.best else markdown_cell(str(c)))
        return markdown(self.columns, rows.to_numpy().tolist())

    def latex(self) -> str:
        """Return the table as LaTeX (package booktabs)."""
        return latex.table(self.frame)

    def numbers(self) -> "DataFrame":
        """Return all digits, a column for each number of a cell: ``accuracy mean``, ``accuracy std``."""
        from pandas import DataFrame

        def flat(line: Mapping[str, Cell]) -> dict[str, float | str]:
            parts: Iterable[tuple[str, Mapping[str, float | str]]] = (
                (name.strip(), cell.numbers or {"": cell.value}) for name, cell in line.items()
            )
            return {
                f"{name} {part}".strip(): csv_cell(value) if isinstance(value, str) else value
                for name, found in parts
                for part, value in found.items()
            }

        return DataFrame([flat(line) for line in self.lines])
