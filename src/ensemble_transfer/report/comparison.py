"""Compare records: mean, standard deviation and n over seeds, and paired differences to a baseline."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ensemble_transfer.report import latex
from ensemble_transfer.report.baseline import is_baseline
from ensemble_transfer.report.frontier import FRONTIER_NOTE, Frontier, frontier_of, frontier_table
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.rows import COLUMNS, DIFFERENCES, SOUP, Column, Row, rows_of
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.report.statistics import Difference, Spread, paired_difference, significantly_best
from ensemble_transfer.report.summary import table

_PARTS = COLUMNS[:6], (COLUMNS[1], *COLUMNS[6:11]), COLUMNS[11:]
"""Columns of the narrow tables: quality, diversity (beside member accuracy), cost."""

NOTES = (
    "± is the standard deviation over seeds. Differences to the baseline are paired by seed, over the seeds that both "
    "rows have, with a 95% confidence interval (Student's t). There is no interval for one seed, or if all differences "
    "are equal. Intervals are not corrected for multiple comparisons. They describe repeated training on this test "
    "set, not other test images.",
    "A value is bold if it is the best of its column and its paired difference to every other row of the same task "
    "is significant at 5% after Holm's correction within the column. There is no correction across columns. "
    "With few seeds, no mark means that the runs cannot decide, not that the rows are equal.",
    "Disagreement and cost are never marked: disagreement of bad members is no gain, and cost is counted exactly. "
    "OOD AUROC uses the entropy: the mean over the named tasks, or the source task's if none is named. "
    "A full is one full fine-tuning of one member, in FLOPs. Worth is the number of fully fine-tuned members with the "
    "same calibrated NLL (deep ensemble equivalent, at most as many as there are; below one, the ratio of the "
    "geometric mean probabilities of the true class). If worth / cost is above 1, a strategy beats fine-tuning as "
    "many members fully as it costs. Marginal GFLOPs is the cost of one more member.",
)
_SOUP = f"{SOUP.capitalize()} is the accuracy of one network whose weights are the mean of the members' weights."


@dataclass(frozen=True)
class Comparison:
    """Rows of finished runs, and runs that did not finish.

    Attributes:
        rows: Rows, in the order in which their first record comes.
        failed: Records of runs that failed or were interrupted, and have not finished in another folder since.
        repeated: Records left out, because their row already has a run with that seed.
        baseline: Label or strategy of the row that others are compared with; None for one member, fully fine-tuned,
            else ``full``, else the first row.
        untested: Records of finished runs that were not evaluated on test, such as the trials of a search.
    """

    rows: tuple[Row, ...]
    failed: tuple[Record, ...]
    repeated: tuple[Record, ...] = ()
    baseline: str | None = None
    untested: tuple[Record, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Record], baseline: str | None = None) -> "Comparison":
        """Return the comparison of records.

        Raises:
            ValueError: If no row has this label or strategy.
        """
        everything = list(records)
        rows, repeated = rows_of(record for record in everything if record.status == "finished" and record.tested)
        failed = _failed(everything)
        names = list(dict.fromkeys(name for row in rows for name in (row.label, row.strategy)))
        if baseline is not None and baseline not in names:
            raise ValueError(
                f"baseline={baseline}: must be a strategy or a row's label, here {', '.join(names) or '-'}"
            )
        untested = [record for record in everything if record.status == "finished" and not record.tested]
        return cls(tuple(rows), tuple(failed), tuple(repeated), baseline, tuple(untested))

    def by_pair(self) -> dict[str, "Comparison"]:
        """Return a comparison for each pair of source and target task, by the pair's name, in the order met.

        Pairs are those of finished runs. A run that did not finish may not know the names of its tasks; it then is in
        no pair.
        """
        records: dict[str, list[Record]] = {}
        for record in (run for row in self.rows for run in row.runs):
            records.setdefault(record.dataset, []).append(record)
        for record in self.failed:
            if record.dataset in records:
                records[record.dataset].append(record)
        return {pair: replace(Comparison.of(own), baseline=self.baseline) for pair, own in records.items()}

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns that are shown."""
        return tuple(c for c in COLUMNS if not c.optional or any(c.name in row.numbers for row in self.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that explain the tables."""
        return (*NOTES, _SOUP) if SOUP in _names(self.columns) else NOTES

    def reference(self, row: Row) -> Row | None:
        """Return the row that a row is compared with: of the same task, and nearest in its other settings."""
        return self._references[row.label]

    @cached_property
    def _references(self) -> dict[str, Row | None]:
        return {row.label: self._nearest(row, self._by_task[row.task]) for row in self.rows}

    @cached_property
    def _by_task(self) -> dict[frozenset[tuple[str, str]], list[Row]]:
        tasks: dict[frozenset[tuple[str, str]], list[Row]] = {}
        for row in self.rows:
            tasks.setdefault(row.task, []).append(row)
        return tasks

    def _nearest(self, row: Row, rivals: Sequence[Row]) -> Row | None:
        name = self.baseline or "full"
        found = [r for r in rivals if is_baseline(r.runs[0])] if self.baseline is None else []
        found = found or [r for r in rivals if r.label == name] or [r for r in rivals if r.strategy == name]
        if not found and self.baseline is None:
            return rivals[0]
        if len(found) <= 1:
            return found[0] if found else None
        return max(found, key=lambda other: len(other.settings.items() & row.settings.items()))

    def difference(self, row: Row, column: Column) -> Difference | None:
        """Return the paired difference of a row to its reference; None where there is none to take."""
        key = row.label, column.name
        if key not in self._differences:
            self._differences[key] = self._difference(row, column)
        return self._differences[key]

    @cached_property
    def _differences(self) -> dict[tuple[str, str], Difference | None]:
        return {}

    def _difference(self, row: Row, column: Column) -> Difference | None:
        reference = self.reference(row)
        if reference is None or reference is row:
            return None
        return paired_difference(row.numbers.get(column.name, {}), reference.numbers.get(column.name, {}))

    def is_best(self, row: Row, column: Column) -> bool:
        """Return whether a row's value is marked as significantly best, as :data:`NOTES` explains."""
        return (row.label, column.name) in self._marked

    @cached_property
    def _marked(self) -> frozenset[tuple[str, str]]:
        """The marked values, by the row's label and the column's name."""
        marked = set()
        for rivals, column in product(self._by_task.values(), self.columns):
            if column.higher_is_better is not None:
                numbers = [row.numbers.get(column.name, {}) for row in rivals]
                best = significantly_best(numbers, column.higher_is_better)
                marked |= set() if best is None else {(rivals[best].label, column.name)}
        return frozenset(marked)

    def markdown(self) -> str:
        """Return the tables, the notes and a line for each failed run as Markdown."""
        parts = ["No run has finished."]
        if self.rows:
            lines = [list(map(_plain, line)) for line in self.differences()]
            parts = [table(("strategy", *_names(self.columns), "seeds"), map(self._markdown_cells, self.rows))]
            if lines:
                parts += [table(("difference to the baseline", "baseline", *_names(DIFFERENCES), "n"), lines)]
            parts += [table(*frontier_table(frontier)), FRONTIER_NOTE] if (frontier := self.frontier) else []
            parts += self.notes
        return "\n\n".join([*parts, *self.failures()]) + "\n"

    @cached_property
    def frontier(self) -> Frontier | None:
        """The strategies at their budgets, for one pair of tasks; None if rows have no budgets, or several pairs."""
        return frontier_of(self.rows) if len(self._by_task) == 1 else None

    def differences(self) -> list[list[str]]:
        """Return a line for each row but the baselines: label, baseline, differences, number of shared seeds."""
        lines = []
        for row in self.rows:
            reference = self.reference(row)
            if reference is not None and reference is not row:
                found = [self.difference(row, column) for column in DIFFERENCES]
                texts = ["-" if d is None else d.text(c.digits) for d, c in zip(found, DIFFERENCES, strict=True)]
                paired = len(set(row.seeds) & set(reference.seeds))
                lines.append([row.label, reference.label, *texts, str(paired)])
        return lines

    def failures(self) -> list[str]:
        """Return a line for each run that did not finish, and for each that is left out; one for those not on test."""
        lines = [f"{r.status}: {r.strategy}, {r.dataset}, seed {r.seed}: {r.error}" for r in self.failed]
        lines += [f"not evaluated on test (evaluation.test=false): {len(self.untested)} runs"] if self.untested else []
        return lines + [f"left out, its seed is there already: {r.strategy}, seed {r.seed}" for r in self.repeated]

    def terminal(self) -> list[Table]:
        """Return tables for a terminal of 80 columns: quality, diversity, cost, differences."""
        tables = [self._terminal(columns) for columns in self._parts() if self.rows]
        lines = [[line[0], *line[2:]] for line in self.differences()]
        names = sorted({line[1] for line in self.differences()})
        versus = Table(f"minus {' or '.join(names)}", *_names(DIFFERENCES), "n", box=SIMPLE_HEAD)
        for line in lines:
            versus.add_row(*(Text(cell.replace(" [", "\n[")) for cell in line))
        return [_to_the_right(shown) for shown in ([*tables, versus] if lines else tables)]

    def _parts(self) -> list[list[Column]]:
        return [[column for column in part if column in self.columns] for part in _PARTS]

    def _terminal(self, columns: Sequence[Column]) -> Table:
        shown = Table("strategy", *(name.replace(" ", "\n") for name in _names(columns)), "n", box=SIMPLE_HEAD)
        for row in self.rows:
            style = ["bold" if self.is_best(row, column) else "" for column in columns]
            cells = [row.text(column).replace(" ± ", "\n±") for column in columns]
            shown.add_row(Text(row.label), *map(Text, cells, style), str(len(row.seeds)))
        return shown

    def _markdown_cells(self, row: Row) -> list[str]:
        cells = [f"**{row.text(c)}**" if self.is_best(row, c) else row.text(c) for c in self.columns]
        return [_plain(row.label), *cells, f"{', '.join(map(str, row.seeds))} (n={len(row.seeds)})"]

    def latex(self) -> str:
        """Return the tables for LaTeX (package booktabs), each narrow enough for a page."""
        if not self.rows:
            return latex.document([], self.failures())
        tables = [
            latex.table(("strategy", *_names(columns), "n"), [self._latex_cells(row, columns) for row in self.rows])
            for columns in self._parts()
        ]
        lines = [list(map(latex.escaped, line)) for line in self.differences()]
        if lines:
            tables.append(latex.table(("difference", "baseline", *_names(DIFFERENCES), "n"), lines))
        return latex.document(tables, [*self.notes, *self.failures()])

    def _latex_cells(self, row: Row, columns: Sequence[Column]) -> list[str]:
        texts = [latex.escaped(row.text(column)) for column in columns]
        marked = [f"\\textbf{{{t}}}" if self.is_best(row, c) else t for c, t in zip(columns, texts, strict=True)]
        return [latex.escaped(row.label), *marked, str(len(row.seeds))]

    def write(self, folder: Path) -> None:
        """Write ``table.md``, ``table.csv`` and ``table.tex`` into a folder, created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "table.tex").write_text(self.latex(), encoding="utf-8")
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            spreads = [f"{name} {part}" for name in _names(self.columns) for part in ("mean", "std")]
            parts = ("difference", "low", "high", "p", "difference n")
            versus = [f"{name} {part}" for name in _names(DIFFERENCES) for part in parts]
            writer.writerow(["strategy", "n", "seeds", *spreads, "baseline", *versus])
            writer.writerows(map(self._csv_cells, self.rows))

    def _csv_cells(self, row: Row) -> list[str]:
        cells = [row.label, str(len(row.seeds)), " ".join(map(str, row.seeds))]
        for name in _names(self.columns):
            spread = row.values.get(name, Spread(math.nan, math.nan, 0))
            cells += [_full(spread.mean), _full(spread.std)]
        reference = self.reference(row)
        cells.append("" if reference is None else reference.label)
        for column in DIFFERENCES:
            d = self.difference(row, column) or Difference(math.nan, math.nan, math.nan, math.nan, 0)
            cells += [*map(_full, (d.mean, d.low, d.high, d.p)), str(d.n)]
        return cells


def _failed(records: Sequence[Record]) -> list[Record]:
    failed = [record for record in records if record.status != "finished"]
    done = [decisive(record.config) for record in records if record.status == "finished"] if failed else []
    return [record for record in failed if not record.config or decisive(record.config) not in done]


def _names(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns]


def _plain(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def _full(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _to_the_right(shown: Table) -> Table:
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    return shown
