"""Tables of a comparison: cells, from which Markdown, LaTeX, CSV and the page are made."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ensemble_transfer.report.escape import csv_cell, latex_cell, markdown_cell
from ensemble_transfer.report.statistics import Difference

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

    @property
    def lines(self) -> list[str]:
        """The number, then its deviation and its interval, where it has them; words are one line."""
        return [self.text] if isinstance(self.value, str) else re.split(r" (?=± |\[)", self.text)


def words(text: str) -> Cell:
    """Return a cell of words."""
    return Cell(text, text)


def count(value: int) -> Cell:
    """Return a cell of a number that is exact."""
    return Cell(str(value), value)


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

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.lines[0])

    def markdown(self) -> str:
        """Return the table as Markdown, its first column to the left and the others to the right."""

        def shown(cell: Cell) -> str:
            text = markdown_cell(cell.text)
            return f"**{text}**" if cell.best else text

        return markdown(map(markdown_cell, self.columns), (map(shown, line.values()) for line in self.lines))

    def latex(self) -> str:
        """Return the table as LaTeX (package booktabs); the words of a heading stand below each other."""

        def shown(cell: Cell) -> str:
            text = latex_cell(cell.text)
            return rf"\textbf{{{text}}}" if cell.best else text

        first, *others = map(latex_cell, self.columns)
        heads = [first, *(r"\shortstack[r]{" + name.replace(" ", r" \\ ") + "}" for name in others)]
        lines = [" & ".join(map(shown, line.values())) + r" \\" for line in self.lines]
        opening = [rf"\begin{{tabular}}{{l{'r' * len(others)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
        return "\n".join([*opening, *lines, r"\bottomrule", r"\end{tabular}"])

    def numbers(self) -> list[dict[str, float | str]]:
        """Return all digits of each line by name: ``accuracy mean``, ``accuracy std``."""
        return [
            {
                f"{name.strip()} {part}".strip(): csv_cell(value) if isinstance(value, str) else value
                for name, cell in line.items()
                for part, value in (cell.numbers or {"": cell.value}).items()
            }
            for line in self.lines
        ]
