"""The tables of a comparison for a terminal of 80 columns: the results, and the differences that decide."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as TerminalTable
from rich.text import Text

from ensemble_transfer.report.comparison import DIFFERENCES_TITLE, FRONTIER_TITLE, RESULTS_TITLE, Comparison
from ensemble_transfer.report.rows import CALIBRATED, WORTH, WORTH_PER_COST
from ensemble_transfer.report.tables import Table

_WIDE = {"accuracy", CALIBRATED, WORTH, WORTH_PER_COST, "members"}
"""Columns of the frontier that there is no room for."""


def tables(comparison: Comparison) -> list[TerminalTable]:
    """Return the results, and the leads over the best rivals or, with a named baseline, the differences to it."""
    found = {table.title: table for table in comparison.tables}
    shown = [_narrow(found[RESULTS_TITLE])] if RESULTS_TITLE in found else []
    if FRONTIER_TITLE in found and comparison.baseline is None:
        shown.append(_narrow(found[FRONTIER_TITLE], "against the best rival", but=_WIDE))
    elif DIFFERENCES_TITLE in found:
        names = sorted({line["baseline"].text for line in found[DIFFERENCES_TITLE].lines})
        shown.append(_narrow(found[DIFFERENCES_TITLE], f"minus {' or '.join(names)}", but={"baseline"}))
    return shown


def _narrow(table: Table, first: str = "strategy", but: Iterable[str] = ()) -> TerminalTable:
    """Return a table for a terminal: the words of headings, and deviations and intervals, on lines of their own."""
    names = ["strategy", *(name for name in table.columns if name not in ("strategy", *but))]
    stacked = [name.replace(" ", "\n").replace("fine-tunings", "fine-\ntunings") for name in names[1:]]
    shown = TerminalTable(*map(escape, (first, *stacked)), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for line in table.lines:
        cells = [line[name] for name in names]
        texts = [("\n".join(cell.lines), "bold" if cell.best else "") for cell in cells]
        shown.add_row(*(Text(text.replace("± ", "±"), style) for text, style in texts))
    shown.columns[0].overflow = "fold"  # two names must not be cut at the same place
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    return shown
