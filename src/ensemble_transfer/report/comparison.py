"""Compare records: mean, standard deviation and n over seeds, and paired differences to a baseline."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import mean

from ensemble_transfer.report.escape import latex_cell, markdown_cell
from ensemble_transfer.report.images import other_images
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.reference import FRONTIER_NOTE, Frontier, frontier_of, references
from ensemble_transfer.report.rows import (
    CALIBRATED,
    COLUMNS,
    COST,
    DIFFERENCES,
    FINE_TUNINGS,
    NAMED,
    QUALITY,
    RESULTS,
    SOUP,
    WORTH,
    WORTH_PER_COST,
    Column,
    Row,
    by_task,
    rows_of,
)
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.report.statistics import Difference, paired_difference, significantly_best
from ensemble_transfer.report.tables import Cell, Table, count, difference, words

MORE = ("More on quality", "More on cost")
"""Titles of the tables that a page opens on demand."""

RESULTS_TITLE = "Results"
_PARTS = {RESULTS_TITLE: RESULTS, **dict(zip(MORE, (QUALITY, COST), strict=True))}
"""Columns of the tables, each narrow enough for a screen, by title."""

DIFFERENCES_TITLE = "Differences to the baseline, paired by seed, with 95% intervals"
FRONTIER_TITLE = "What a budget buys, against the best rival"

NOTES = (
    "± is the standard deviation over seeds. Differences to the baseline are paired by seed, over the seeds that both "
    "rows have, with a 95% confidence interval (Student's t). There is no interval for one seed, or if all differences "
    "are equal. The interval of an accuracy is that for other test images, 95%, a mean over seeds; differences and "
    "their intervals are about training again. Intervals are not corrected for multiple comparisons. ",
    "A value is bold if it is the best of its column and its paired difference to every other row of the same task "
    "is significant at 5% after Holm's correction within the column. There is no correction across columns. "
    "With few seeds, no mark means that the runs cannot decide, not that the rows are equal.",
    "Disagreement and cost are never marked: disagreement of bad members is no gain, and cost is counted exactly. "
    "OOD AUROC uses the entropy: the mean over the named tasks, or the source task's if none is named. "
    "A fine-tuning is one full fine-tuning of one member, in FLOPs; by time, in seconds of computation. Networks is "
    "how many a prediction runs. Worth is the number of fully fine-tuned members with the same calibrated NLL (deep "
    "ensemble equivalent): ≥ where it is better than as many as there are, and not given where it is worse than one. "
    "If worth / cost is above 1, a strategy is better at equal cost than as many fully fine-tuned members as it costs. "
    "Marginal GFLOPs is the cost of one more member.",
)
_SOUP = f"{SOUP.capitalize()} is the accuracy of one network whose weights are the mean of the members' weights."


@dataclass(frozen=True)
class Comparison:
    """Rows of finished runs, and runs that did not finish.

    Attributes:
        rows: Rows, in the order in which their first record comes.
        failed: Records of runs that failed or were interrupted, and have not finished in another folder since.
        repeated: Records left out, because their row already has a run with that seed.
        baseline: Label or strategy of the row that others are compared with; None for the choice of
            :func:`~ensemble_transfer.report.reference.references`: one member, fully fine-tuned, where it is there.
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
        named = next((row.runs[0] for row in self.rows if row.label == self.baseline), None)
        found = {}
        for pair, own in records.items():
            part = Comparison.of(own)  # in which labels are shorter
            label = next((row.label for row in part.rows if named in row.runs), self.baseline)
            found[pair] = replace(part, baseline=label)
        return found

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns that are shown."""
        return tuple(c for c in COLUMNS if not c.optional or any(c.name in row.numbers for row in self.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that explain the tables."""
        soup = (_SOUP,) if NAMED[SOUP] in self.columns else ()
        return (*((FRONTIER_NOTE,) if self.frontier else ()), *NOTES, *soup)

    @cached_property
    def frontier(self) -> Frontier | None:
        """The strategies at their budgets, for one pair of tasks; None where none meets a rival."""
        return frontier_of(self.rows)

    @cached_property
    def _references(self) -> dict[str, Row | None]:
        return references(self.rows, self.baseline)

    def reference(self, row: Row) -> Row | None:
        """Return the row that a row is compared with: of the same task, and nearest in its other settings."""
        return self._references[row.label]

    def difference(self, row: Row, column: Column) -> Difference | None:
        """Return the paired difference of a row to its reference; None where there is none to take."""
        reference = self.reference(row)
        if reference is None or reference is row:
            return None
        return paired_difference(row.numbers.get(column.name, {}), reference.numbers.get(column.name, {}))

    @cached_property
    def _best(self) -> frozenset[tuple[str, str]]:
        """The values that are significantly best, as :data:`NOTES` explains, by the row's label and the column."""
        found = set()
        for rivals, column in product(by_task(self.rows).values(), self.columns):
            if column.higher_is_better is not None:
                numbers = [row.numbers.get(column.name, {}) for row in rivals]
                best = significantly_best(numbers, column.higher_is_better)
                found |= set() if best is None else {(rivals[best].label, column.name)}
        return frozenset(found)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables: results, the frontier where there is one, differences, more on quality, more on cost."""
        first, *more = (self._measured(title, columns) for title, columns in _PARTS.items())
        return tuple(table for table in (first, self._budgets(), self.differences, *more) if table.lines)

    def _measured(self, title: str, columns: Sequence[Column]) -> Table:
        columns = [column for column in columns if column in self.columns]
        lines = [
            {"strategy": words(row.label), **self._cells(row, columns), "seeds": count(len(row.seeds))}
            for row in self.rows
        ]
        return Table(title, lines, _ascending(columns), [groups_of(row) for row in self.rows])

    def _cells(self, row: Row, columns: Iterable[Column]) -> dict[str, Cell]:
        return {c.name: _cell(row, c, (row.label, c.name) in self._best) for c in columns}

    @cached_property
    def differences(self) -> Table:
        """The differences of each row but the baselines."""
        lines, groups = [], []
        for row in self.rows:
            reference = self.reference(row)
            if reference is not None and reference is not row:
                cells = {c.name: difference(self.difference(row, c), c.digits) for c in DIFFERENCES}
                paired = count(len(set(row.seeds) & set(reference.seeds)))
                names = {"strategy": words(row.label), "baseline": words(reference.label)}
                lines.append(names | cells | {"seeds in both": paired})
                groups.append(groups_of(row))
        return Table(DIFFERENCES_TITLE, lines, _ascending(DIFFERENCES), groups)

    def _budgets(self) -> Table:
        """Return the frontier, budget by budget: every strategy against the best rival."""
        frontier = self.frontier or Frontier(())
        names = FINE_TUNINGS, "accuracy", CALIBRATED, WORTH, WORTH_PER_COST
        columns = [NAMED[name] for name in names if NAMED[name] in self.columns]
        lines = []
        for point in sorted(frontier.points, key=lambda point: point.budget or 0.0):
            members = mean(run.ensemble["size"] for run in point.runs)
            leads = {
                f"{c.name} minus the best rival's": difference(frontier.lead(point, c), c.digits)
                for c in (NAMED["accuracy"], NAMED[CALIBRATED])
            }
            first = {"budget": Cell(f"{point.budget:g}", point.budget or 0.0), "strategy": words(point.label)}
            last = {"members": Cell(f"{members:.1f}", members), "seeds": count(len(point.seeds))}
            lines.append(first | {c.name: _cell(point, c) for c in columns} | leads | last)
        groups = [{"budget": line["budget"].text} for line in lines]
        return Table(FRONTIER_TITLE, lines, _ascending(columns) | {"budget"}, groups)

    def markdown(self) -> str:
        """Return the tables, the notes and a line for each failed run as Markdown."""
        parts = [part for table in self.tables for part in (f"## {table.title}", table.markdown())]
        parts = [*parts, *self.notes] if parts else [self.nothing]
        return "\n\n".join([*parts, *map(markdown_cell, self.failures())]) + "\n"

    @property
    def nothing(self) -> str:
        """What is said where there is no row."""
        return "No run has been evaluated on test." if self.untested else "No run has finished."

    def latex(self) -> str:
        """Return the tables for LaTeX (package booktabs), each narrow enough for a page."""
        notes = [*(self.notes if self.rows else ()), *self.failures()]
        tables = [table.latex() for table in self.tables]
        return "\n\n".join(["% needs \\usepackage{booktabs}", *tables, *map(latex_cell, notes)]) + "\n"

    def failures(self) -> list[str]:
        """Return a line for each run that did not finish, is left out, or has seen other images."""
        lines = [f"{r.status}: {r.strategy}, {r.dataset}, seed {r.seed}: {r.error}" for r in self.failed]
        lines += other_images(self.rows)
        lines += [f"not evaluated on test (evaluation.test=false): {len(self.untested)} runs"] if self.untested else []
        return lines + [f"left out, its seed is there already: {r.strategy}, seed {r.seed}" for r in self.repeated]

    def write(self, folder: Path) -> None:
        """Write ``table.md``, ``table.csv`` and ``table.tex`` into a folder, created if missing."""
        from pandas import DataFrame

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "table.tex").write_text(self.latex(), encoding="utf-8")
        lines = Table("", list(self._everything())).numbers()
        DataFrame(lines).to_csv(folder / "table.csv", index=False)

    def _everything(self) -> Iterator[dict[str, Cell]]:
        """Yield a line for each row, with all of its numbers."""
        for row in self.rows:
            reference = self.reference(row)
            seeds = {"n": count(len(row.seeds)), "seeds": words(" ".join(map(str, row.seeds)))}
            versus = {f"{c.name} ": difference(self.difference(row, c), c.digits) for c in DIFFERENCES}
            baseline = {"baseline": words("" if reference is None else reference.label)}
            yield {"strategy": words(row.label)} | seeds | self._cells(row, self.columns) | baseline | versus


def _failed(records: Sequence[Record]) -> list[Record]:
    failed = [record for record in records if record.status != "finished"]
    done = [decisive(record.config) for record in records if record.status == "finished"] if failed else []
    return [record for record in failed if not record.config or decisive(record.config) not in done]


def _cell(row: Row, column: Column, best: bool = False) -> Cell:
    spread, text = row.spread(column.name), row.text(column)
    numbers = {"mean": spread.mean, "std": spread.std}
    if column.name == "accuracy" and (ends := row.on_other_images) is not None:
        text += f" [{ends[0]:.{column.digits}f}, {ends[1]:.{column.digits}f}]"
        numbers |= dict(zip(("low", "high"), ends, strict=True))
    return Cell(text, spread.mean, best, numbers)


def groups_of(row: Row) -> dict[str, str]:
    """Return what a page filters a row by."""
    return {"pair": row.runs[0].dataset, "budget": "none" if row.budget is None else f"{row.budget:g}"}


def _ascending(columns: Iterable[Column]) -> frozenset[str]:
    """Return the columns of which lower values are better: losses and costs."""
    costs = (*RESULTS[3:], *COST[1:])
    return frozenset(column.name for column in columns if column.higher_is_better is False or column in costs)
