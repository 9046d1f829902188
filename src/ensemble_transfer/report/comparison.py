"""Many records side by side: mean, standard deviation and n over seeds, from records alone."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ensemble_transfer.metrics.equivalent import deep_ensemble_equivalent
from ensemble_transfer.records import Record
from ensemble_transfer.report.summary import table

METRICS = {
    "accuracy": "target/test/ensemble/accuracy",
    "member accuracy": "target/test/member/accuracy",
    "NLL": "target/test/ensemble/nll",
    "calibrated NLL": "target/test/calibrated/nll",
    "ECE": "target/test/calibration/ece",
    "disagree": "target/test/diversity/disagreement",
    "normalised": "target/test/diversity/disagreement_normalised",
}
COSTS = {"steps": ("steps", 1.0), "GFLOPs": ("flops", 1e9), "seconds": ("seconds", 1.0)}
DEE = "full members"
"""The deep ensemble equivalent: how many fully fine-tuned members the ensemble is worth."""

COLUMNS = (*METRICS, DEE, *COSTS)
_DIGITS = {"steps": 0, "GFLOPs": 1, "seconds": 1, DEE: 1}

# How a run was computed and where it was kept: not what was run.
_INCIDENTAL = ("seed", "store", "trainer", "logger")


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation over seeds (NaN for one seed) and number of seeds."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(mean(values), stdev(values) if len(values) > 1 else math.nan, len(values))

    def text(self, digits: int) -> str:
        """Return ``mean ± std``; the mean alone where nothing varies."""
        spread = f" ± {self.std:,.{digits}f}" if self.std > 0 else ""
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: The strategy, and what else sets the row apart from the others.
        seeds: Seeds of the runs.
        values: By column; a column is missing where a run has no number for it.
    """

    label: str
    seeds: tuple[int, ...]
    values: Mapping[str, Spread]


@dataclass(frozen=True)
class Comparison:
    """Rows of finished runs, and the runs that failed."""

    rows: tuple[Row, ...]
    failed: tuple[Record, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Comparison":
        """Return the comparison of records, its rows in the order met."""
        groups: dict[tuple[tuple[str, str], ...], list[Record]] = {}
        everything = list(records)
        finished = [record for record in everything if record.status == "finished"]
        failed = [record for record in everything if record.status != "finished"]
        for record in finished:
            groups.setdefault(tuple(_what(record).items()), []).append(record)
        settings = [dict(key) for key in groups]
        labels = [_label(own, settings) for own in settings]
        rows = [_row(label, runs, finished) for label, runs in zip(labels, groups.values(), strict=True)]
        return cls(tuple(rows), tuple(failed))

    def markdown(self) -> str:
        """Return the table, and a line for each failed run, as Markdown."""
        cells = [[row.label, *(_cell(row, column) for column in COLUMNS), _seeds(row)] for row in self.rows]
        parts = [table(("strategy", *COLUMNS, "seeds"), cells)] if cells else ["No run has finished."]
        return "\n\n".join([*parts, *self.failures()]) + "\n"

    def failures(self) -> list[str]:
        """Return a line for each failed run."""
        return [f"failed: {r.strategy}, {r.dataset}, seed {r.seed}: {r.error}" for r in self.failed]

    def terminal(self) -> list[Table]:
        """Return tables for a terminal, narrow enough for 80 columns: quality, then diversity and cost."""
        quality, diversity = list(METRICS)[:5], list(METRICS)[5:]
        return [self._terminal(quality), self._terminal([*diversity, DEE, *COSTS])]

    def _terminal(self, columns: Sequence[str]) -> Table:
        shown = Table("strategy", *columns, "n", box=SIMPLE_HEAD)
        for row in self.rows:
            cells = [_cell(row, column).replace(" ± ", "\n±") for column in columns]
            shown.add_row(row.label, *cells, str(len(row.seeds)))
        for column in shown.columns[1:]:
            column.justify, column.no_wrap = "right", True
        return shown

    def write(self, folder: Path) -> None:
        """Write ``table.md`` and ``table.csv`` into a folder, which is made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(self.markdown())
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            spreads = [f"{column} {part}" for column in COLUMNS for part in ("mean", "std")]
            writer.writerow(["strategy", "n", "seeds", *spreads])
            for row in self.rows:
                values = [_numbers(row.values.get(column)) for column in COLUMNS]
                seeds = " ".join(map(str, row.seeds))
                writer.writerow([row.label, len(row.seeds), seeds, *(v for pair in values for v in pair)])


def equivalent(record: Record, records: Iterable[Record]) -> float | None:
    """Return how many fully fine-tuned members an ensemble is worth by calibrated NLL, at most as many as there are.

    The reference is the run of strategy ``full`` among the records that shares all but the strategy; None without.
    """
    own = _what(record)
    shared = {name: value for name, value in own.items() if not name.startswith("strategy")}
    for other in records:
        theirs = _what(other)
        if other.strategy == "full" and other.seed == record.seed and shared.items() <= theirs.items():
            reference = other.curves["ensemble_size"]["calibrated_nll"]
            nll = record.metrics["target/test/calibrated/nll"]
            return None if nll is None else min(deep_ensemble_equivalent(nll, reference), float(len(reference)))
    return None


def _row(label: str, runs: Sequence[Record], records: Sequence[Record]) -> Row:
    values = {}
    for column in COLUMNS:
        numbers = [equivalent(run, records) if column == DEE else _value(run, column) for run in runs]
        known = [number for number in numbers if number is not None]
        if known and len(known) == len(runs):
            values[column] = Spread.of(known)
    return Row(label, tuple(run.seed for run in runs), values)


def _value(record: Record, column: str) -> float | None:
    if column in METRICS:
        return record.metrics.get(METRICS[column])
    field, unit = COSTS[column]
    value = record.cost.get("total", {}).get(field)
    return None if value is None else value / unit


def _what(record: Record) -> dict[str, str]:
    """Return what was run, flat: the strategy, and every setting that is not incidental."""
    settings = {name: value for name, value in record.config.items() if name not in _INCIDENTAL}
    return {"strategy": record.strategy, "dataset": record.dataset} | dict(_flat(settings, ""))


def _flat(node: Any, path: str) -> Iterable[tuple[str, str]]:  # noqa: ANN401
    if not isinstance(node, Mapping):
        yield path, str(node)
        return
    for key, value in node.items():
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _label(own: Mapping[str, str], all_settings: Sequence[Mapping[str, str]]) -> str:
    """Return the strategy with the settings that set it apart; a strategy's options from its own kind only."""
    apart = []
    for name, value in own.items():
        rivals = all_settings
        if name.startswith("strategy."):
            rivals = [other for other in all_settings if other["strategy"] == own["strategy"]]
        differs = any(other.get(name) != value for other in rivals)
        if differs and name != "strategy" and not name.startswith("dataset."):
            apart.append(value if name == "dataset" else f"{name.removeprefix('strategy.')}={value}")
    return f"{own['strategy']} ({', '.join(apart)})" if apart else own["strategy"]


def _cell(row: Row, column: str) -> str:
    spread = row.values.get(column)
    return "-" if spread is None else spread.text(_DIGITS.get(column, 3))


def _numbers(spread: Spread | None) -> tuple[str, str]:
    return ("", "") if spread is None else (repr(spread.mean), "" if math.isnan(spread.std) else repr(spread.std))


def _seeds(row: Row) -> str:
    return f"{', '.join(map(str, row.seeds))} (n={len(row.seeds)})"
