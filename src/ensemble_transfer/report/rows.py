"""Rows and columns of a comparison: group runs over seeds, label the groups, read their numbers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ensemble_transfer.metrics.equivalent import worth
from ensemble_transfer.report.labels import labels
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive, flat
from ensemble_transfer.report.statistics import Spread

Task = frozenset[tuple[str, str]]
"""Settings that rows must share to be compared."""


@dataclass(frozen=True)
class Column:
    """One number of a run, shown as a column.

    Attributes:
        name: Heading.
        read: Returns the number from a record, or None if the record lacks it.
        digits: Decimals shown.
        higher_is_better: None if neither direction is better in itself, or if the number is an exact count.
        optional: Whether to hide the column if no run has the number.
    """

    name: str
    read: Callable[[Record], float | None]
    digits: int = 3
    higher_is_better: bool | None = None
    optional: bool = False


def on_test(name: str) -> Callable[[Record], float | None]:
    """Return what reads a metric of the target's test split."""
    return lambda record: record.metrics.get(f"target/test/{name}")


def _cost(part: str, field: str, unit: float = 1.0) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        value = (record.cost.get(part) or {}).get(field)
        return None if value is None else value / unit

    return read


def _ood(record: Record) -> float | None:
    """Return the AUROC of the entropy: the mean over the named tasks, or the source task's if none is named."""
    start, end = "target/test/ood/", "/entropy/auroc"
    found = {k[len(start) : -len(end)]: v for k, v in record.metrics.items() if k.startswith(start) and k.endswith(end)}
    named = [value for name, value in found.items() if name != "source"] or list(found.values())
    known = [value for value in named if value is not None]
    return sum(known) / len(known) if known and len(known) == len(named) else None


SAME = 0.02
"""Costs that differ by no more than this share of one count as equal."""


def is_baseline(record: Record) -> bool:
    """Return whether a run is the baseline: a rival of one member, at the cost of one fine-tuning."""
    spent = (record.cost.get("total") or {}).get("fine_tunings")
    unstretched = record.config.get("budget") is None if spent is None else abs(spent - 1) <= SAME
    return record.role == "rival" and record.ensemble.get("size") == 1 and unstretched


APART = 0.1
"""Difference of a cost by FLOPs and by time, as a share of the first, above which a text gives both."""


def costs_differ(by_flops: float, by_time: float) -> bool:
    """Return whether two costs of the same work, both in fine-tunings, differ so much that a text gives both."""
    return abs(by_time - by_flops) > APART * by_flops


def networks(record: Record) -> int | None:
    """Return how many networks a prediction runs; None for a run that did not finish."""
    counted: int | None = record.cost.get("prediction", {}).get("networks")
    return counted


BASELINE = "baseline"
"""What the row of the baseline is called."""

CALIBRATED, SOUP, NETWORKS = "calibrated NLL", "soup accuracy", "networks"
FINE_TUNINGS, BY_TIME = "fine-tunings", "fine-tunings by time"
WORTH, WORTH_PER_COST = "worth", "worth / cost"
"""Names of columns, which the notes of a comparison explain."""

RESULTS = (
    Column("accuracy", on_test("ensemble/accuracy"), 3, True),
    Column(CALIBRATED, on_test("calibrated/nll"), 3, False),
    Column(WORTH, lambda _: None, 2, True, optional=True),
    Column(FINE_TUNINGS, _cost("total", "fine_tunings"), 2, optional=True),
    Column(BY_TIME, _cost("total", "fine_tunings_by_time"), 2, optional=True),
    Column(NETWORKS, networks, 0, optional=True),
)
"""Columns that decide: quality, and what it costs to train and to predict."""

QUALITY = (
    Column("balanced accuracy", on_test("ensemble/balanced_accuracy"), 3, True, optional=True),
    Column("member accuracy", on_test("member/accuracy"), 3, True),
    Column("NLL", on_test("ensemble/nll"), 3, False),
    Column("ECE", on_test("calibration/ece"), 3, False),
    Column("AURC", on_test("selective/aurc"), 4, False),
    Column(SOUP, on_test("soup/accuracy"), 3, True, optional=True),
    Column("disagreement", on_test("diversity/disagreement")),
    Column("normalised disagreement", on_test("diversity/disagreement_normalised")),
    Column("OOD AUROC", _ood, 3, True, optional=True),
)
COST = (
    Column(WORTH_PER_COST, lambda _: None, 2, optional=True),
    Column("steps", _cost("total", "steps"), 0),
    Column("GFLOPs", _cost("total", "flops", 1e9), 1),
    Column("seconds", _cost("total", "seconds"), 1),
    Column("marginal GFLOPs", _cost("marginal", "flops", 1e9), 1),
)
COLUMNS = (*RESULTS, *QUALITY, *COST)
NAMED = {column.name: column for column in COLUMNS}
DIFFERENCES = tuple(NAMED[name] for name in ("accuracy", CALIBRATED, "NLL"))
"""Columns with paired differences to the baseline."""


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed.

    Attributes:
        label: Strategy, and the settings that distinguish the row from the others.
        settings: Settings that decide the result, by dotted path.
        runs: Records, one per seed.
        numbers: Numbers by column, then by seed; a column that any run lacks is missing.
        budget: Budget in fine-tunings; None where there was none.
        bounds: Columns whose numbers are lower bounds: the worth of an ensemble that is better than its reference.
    """

    label: str
    settings: Mapping[str, str]
    runs: tuple[Record, ...]
    numbers: Mapping[str, Mapping[int, float]]
    budget: float | None = None
    bounds: frozenset[str] = frozenset()

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.runs[0].strategy

    @property
    def role(self) -> str:
        """Role of the strategy."""
        return self.runs[0].role

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def unit(self) -> frozenset[float | None]:
        """FLOPs of a fine-tuning of its runs: a row with another unit did not spend the same."""
        return frozenset(run.cost.get("full_flops") for run in self.runs)

    @cached_property
    def task(self) -> Task:
        """Settings of source and target, which rows must share to be compared."""
        return _task(self.settings)

    def spread(self, name: str) -> Spread:
        """Return mean and spread of a column over seeds; NaN if the row lacks it."""
        by_seed = self.numbers.get(name)
        return Spread.of(list(by_seed.values())) if by_seed else Spread(math.nan, math.nan, 0)

    @property
    def on_other_images(self) -> tuple[float, float] | None:
        """Ends of the 95% interval of the accuracy for other test images, means over seeds; None if not all know it."""
        ends = [
            [run.metrics.get(f"target/test/ensemble/accuracy_{end}") for run in self.runs] for end in ("low", "high")
        ]
        low, high = ([value for value in own if value is not None] for own in ends)
        known = len(low) == len(high) == len(self.runs)
        return (sum(low) / len(low), sum(high) / len(high)) if known else None

    def mean(self, name: str) -> float:
        """Return the mean of a column; NaN if the row lacks it."""
        return self.spread(name).mean

    def text(self, column: Column) -> str:
        """Return ``mean ± std``, ``≥ mean`` where it is a lower bound, or a dash if the row lacks the column."""
        return self.spread(column.name).text(column.digits, bound=column.name in self.bounds)


def rows_of(records: Iterable[Record]) -> tuple[list[Row], list[Record]]:
    """Return finished runs by what was run, and the runs that repeat a seed of their row, which count once."""
    finished = _what(records)
    groups: dict[tuple[tuple[str, str], ...], dict[int, Record]] = {}
    repeated = []
    for record, own in finished:
        group = groups.setdefault(tuple(sorted(own.items())), {})
        if group.setdefault(record.seed, record) is not record:
            repeated.append(record)
    as_written = {tuple(sorted(own.items())): own for _, own in reversed(finished)}
    settings = [as_written[key] for key in groups]
    full = {(_shared(own), r.seed): r for r, own in reversed(finished) if r.role == "reference"}
    rows: dict[str, Row] = {}
    for own, label, group in zip(settings, _labels(settings, list(groups.values())), groups.values(), strict=True):
        label = f"{label} #{len(rows) + 1}" if label in rows else label
        shared = _shared(own)
        numbers, bounds = _numbers(list(group.values()), {seed: full.get((shared, seed)) for seed in group})
        runs = tuple(group.values())
        rows[label] = Row(label, own, runs, numbers, runs[0].config.get("budget"), bounds)
    return list(rows.values()), repeated


def _labels(settings: Sequence[Mapping[str, str]], groups: Sequence[Mapping[int, Record]]) -> list[str]:
    """Return the labels of rows; the only baseline of its task is called so."""
    found = labels(settings)
    tasks = [
        _task(own) if all(map(is_baseline, group.values())) else None
        for own, group in zip(settings, groups, strict=True)
    ]
    for place, task in enumerate(tasks):
        if task is not None and tasks.count(task) == 1:
            _, _, inner = found[place].rstrip(")").partition(" (")
            kept = [
                part for part in inner.split(", ") if part and not part.startswith(("members=", "budget=", "no budget"))
            ]
            found[place] = f"{BASELINE} ({', '.join(kept)})" if kept else BASELINE
    return found


def _task(settings: Mapping[str, str]) -> Task:
    return frozenset(item for item in settings.items() if item[0].split(".")[0] == "dataset")


def by_task(rows: Iterable[Row]) -> dict[Task, list[Row]]:
    """Return rows by their task, in the order met."""
    found: dict[Task, list[Row]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return found


def _shared(own: Mapping[str, str]) -> Task:
    """Return what a run shares with the run of the reference that its worth is measured by: all but the strategy."""
    return frozenset(item for item in own.items() if item[0] != "budget" and not item[0].startswith("strategy"))


def _numbers(
    runs: Sequence[Record], full: Mapping[int, Record | None]
) -> tuple[dict[str, dict[int, float]], frozenset[str]]:
    """Return the numbers of a row, given the runs of the reference by seed, and the columns that are lower bounds."""
    found = {column.name: {run.seed: column.read(run) for run in runs} for column in COLUMNS}
    bounded = False
    for run in runs:
        value, capped = worth_of(run, full[run.seed])
        spent = found[FINE_TUNINGS][run.seed]
        found[WORTH][run.seed] = value
        found[WORTH_PER_COST][run.seed] = value / spent if value is not None and spent else None
        bounded |= capped
    known = {name: {s: n for s, n in by_seed.items() if n is not None} for name, by_seed in found.items()}
    complete = {name: by_seed for name, by_seed in known.items() if len(by_seed) == len(runs)}
    return complete, frozenset((WORTH, WORTH_PER_COST) if bounded else ())


def worth_of(record: Record, full: Record | None) -> tuple[float | None, bool]:
    """Return a run's worth, if it is known and at least one member, and whether it is only known to be that or more."""
    curve = (full.curves.get("ensemble_size") or {}).get("calibrated_nll") if full is not None else None
    nll = NAMED[CALIBRATED].read(record)
    if nll is None or not curve or None in curve:
        return None, False
    return worth(nll, curve), nll < min(curve)


def _what(records: Iterable[Record]) -> list[tuple[Record, dict[str, str]]]:
    """Return records with what was run, flat: the strategy, and every setting that decides the result but the seed.

    What is the seed in all runs on a pair of tasks, such as ``dataset.target.seed=${seed}``, is no setting either.
    """
    found = []
    for record in records:
        settings = {name: value for name, value in decisive(record.config).items() if name != "seed"}
        found.append((record, {"strategy": record.strategy, "dataset": record.dataset} | dict(flat(settings))))
    fixed = {
        (record.dataset, name)
        for record, own in found
        for name, value in own.items()
        if name.endswith(".seed") and value != str(record.seed)
    }
    return [
        (record, {k: v for k, v in own.items() if not k.endswith(".seed") or (record.dataset, k) in fixed})
        for record, own in found
    ]


def lineage(record: Record) -> str:
    """Describe how the members are related: lineage, fork (if set), pretrained ancestor."""
    fork = record.config.get("ensemble", {}).get("fork")
    ancestor = record.config.get("backbone", {})
    parts = [str(record.ensemble.get("lineage", "unknown"))]
    if fork is not None:
        parts.append(f"fork at {float(fork):.0%}")
    if ancestor.get("pretrained") or ancestor.get("checkpoint"):
        parts.append("pretrained")
    return ", ".join(parts)
