"""Rows and columns of a comparison: group runs over seeds, label the groups, read their numbers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from ensemble_transfer.metrics.equivalent import worth
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive, flat
from ensemble_transfer.report.statistics import Spread

_TEST = "target/test/"
_OOD = f"{_TEST}ood/"


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


def _metric(record: Record, name: str) -> float | None:
    return record.metrics.get(_TEST + name)


def _ood(record: Record) -> float | None:
    """Return the AUROC of the entropy: the mean over the named tasks, or the source task's if none is named."""
    found = {key.split("/")[3]: value for key, value in record.metrics.items() if _is_entropy_auroc(key)}
    named = [value for name, value in found.items() if name != "source"] or [found.get("source")]
    known = [value for value in named if value is not None]
    return sum(known) / len(known) if known and len(known) == len(named) else None


def _is_entropy_auroc(key: str) -> bool:
    return key.startswith(_OOD) and key.endswith("/entropy/auroc")


def _cost(record: Record, part: str, field: str, unit: float = 1.0) -> float | None:
    value = (record.cost.get(part) or {}).get(field)
    return None if value is None else value / unit


WORTH = "worth"
"""How many fully fine-tuned members the ensemble is worth by calibrated NLL."""

FINE_TUNINGS = "fine-tunings"
"""The cost of the transfer, in full fine-tunings of one member."""

WORTH_PER_COST = "worth / cost"
"""Above 1, a strategy beats fine-tuning as many members fully as it costs."""

CALIBRATED = "calibrated NLL"
"""The NLL after temperature scaling on validation."""

SOUP = "soup accuracy"
"""Accuracy of the soup: one network whose weights are the mean of the members' weights."""

COLUMNS = (
    Column("accuracy", partial(_metric, name="ensemble/accuracy"), 3, True),
    Column("member accuracy", partial(_metric, name="member/accuracy"), 3, True),
    Column("NLL", partial(_metric, name="ensemble/nll"), 3, False),
    Column(CALIBRATED, partial(_metric, name="calibrated/nll"), 3, False),
    Column("ECE", partial(_metric, name="calibration/ece"), 3, False),
    Column("AURC", partial(_metric, name="selective/aurc"), 4, False),
    Column(SOUP, partial(_metric, name="soup/accuracy"), 3, True, optional=True),
    Column("disagreement", partial(_metric, name="diversity/disagreement")),
    Column("normalised disagreement", partial(_metric, name="diversity/disagreement_normalised")),
    Column("OOD AUROC", _ood, 3, True),
    Column(WORTH, lambda _: None, 2, True, optional=True),
    Column(FINE_TUNINGS, lambda _: None, 2, optional=True),
    Column(WORTH_PER_COST, lambda _: None, 2, optional=True),
    Column("steps", partial(_cost, part="total", field="steps"), 0),
    Column("GFLOPs", partial(_cost, part="total", field="flops", unit=1e9), 1),
    Column("seconds", partial(_cost, part="total", field="seconds"), 1),
    Column("marginal GFLOPs", partial(_cost, part="marginal", field="flops", unit=1e9), 1),
)
DIFFERENCES = COLUMNS[0], COLUMNS[2], COLUMNS[3]
"""Columns with paired differences to the baseline."""

NAMED = 4
"""Maximum number of settings in a label."""

LONG = 24
"""Maximum number of characters of a value in a label; a path keeps its end."""

_OOD_TASKS = "evaluation.ood."


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed.

    Attributes:
        label: Strategy, and the settings that distinguish the row from the others.
        settings: Settings that decide the result, by dotted path.
        runs: Records, one per seed.
        numbers: Numbers by column, then by seed; a column that any run lacks is missing.
    """

    label: str
    settings: Mapping[str, str]
    runs: tuple[Record, ...]
    numbers: Mapping[str, Mapping[int, float]]

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.runs[0].strategy

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @cached_property
    def task(self) -> frozenset[tuple[str, str]]:
        """Settings of source and target, which rows must share to be compared."""
        return frozenset(item for item in self.settings.items() if item[0].split(".")[0] == "dataset")

    @cached_property
    def values(self) -> dict[str, Spread]:
        """Mean and spread over seeds, by column."""
        return {name: Spread.of(list(by_seed.values())) for name, by_seed in self.numbers.items()}

    def text(self, column: Column) -> str:
        """Return ``mean ± std``, or a dash if the row lacks the column."""
        return self.values[column.name].text(column.digits) if column.name in self.numbers else "-"


def rows_of(records: Iterable[Record]) -> tuple[list[Row], list[Record]]:
    """Return finished runs by what was run, and the runs that repeat a seed of their row, which count once."""
    finished = [(record, _what(record)) for record in records]
    groups: dict[tuple[tuple[str, str], ...], dict[int, Record]] = {}
    repeated = []
    for record, own in finished:
        group = groups.setdefault(tuple(own.items()), {})
        if group.setdefault(record.seed, record) is not record:
            repeated.append(record)
    settings = [dict(key) for key in groups]
    references = _references(finished)
    rows: dict[str, Row] = {}
    for own, label, group in zip(settings, _labels(settings), groups.values(), strict=True):
        label = f"{label} #{len(rows) + 1}" if label in rows else label
        runs = tuple(group.values())
        rows[label] = Row(label, own, runs, _numbers(runs, own, references))
    return list(rows.values()), repeated


_References = Mapping[tuple[str, int], Sequence[tuple[Record, Mapping[str, str]]]]
"""Runs of strategy ``full`` with what was run, by pair of tasks and seed."""


def _references(records: Iterable[tuple[Record, Mapping[str, str]]]) -> _References:
    found: dict[tuple[str, int], list[tuple[Record, Mapping[str, str]]]] = {}
    for record, what in records:
        if record.strategy == "full":
            found.setdefault((record.dataset, record.seed), []).append((record, what))
    return found


def reference_of(record: Record, own: Mapping[str, str], references: _References) -> Record | None:
    """Return the run of strategy ``full`` that shares all of a run's settings but strategy and budget; None without.

    Args:
        record: The run.
        own: What was run, flat.
        references: Runs of strategy ``full``.
    """
    shared = {name: value for name, value in own.items() if not name.startswith("strategy") and name != "budget"}
    found = references.get((record.dataset, record.seed), ())
    return next((other for other, what in found if shared.items() <= what.items()), None)


def _measured(record: Record, reference: Record | None) -> dict[str, float | None]:
    """Return a run's worth, its cost in fine-tunings, and their ratio, as far as they are known."""
    spent = _cost(record, "total", "fine_tunings")
    curve = (reference.curves.get("ensemble_size") or {}).get("calibrated_nll") if reference is not None else None
    nll = _metric(record, "calibrated/nll")
    value = worth(nll, curve) if nll is not None and curve and None not in curve else None
    return {WORTH: value, FINE_TUNINGS: spent, WORTH_PER_COST: value / spent if value is not None and spent else None}


def _numbers(runs: Sequence[Record], own: Mapping[str, str], references: _References) -> dict[str, dict[int, float]]:
    measured = {run.seed: _measured(run, reference_of(run, own, references)) for run in runs}
    numbers = {}
    for column in COLUMNS:
        found = {run.seed: measured[run.seed].get(column.name, column.read(run)) for run in runs}
        known = {seed: number for seed, number in found.items() if number is not None}
        if len(known) == len(found):
            numbers[column.name] = known
    return numbers


def _what(record: Record) -> dict[str, str]:
    """Return what was run, flat: the strategy, and every setting that decides the result except the seed."""
    settings = {name: value for name, value in decisive(record.config).items() if name != "seed"}
    return {"strategy": record.strategy, "dataset": record.dataset} | dict(flat(settings))


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


def _labels(all_settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the label of each row: the strategy with the settings that set the row apart.

    Options of the strategy and of the evaluation are compared within the same strategy only, options of source and
    target within the same dataset only.
    """
    everybody = _Rivals(all_settings)
    kinds = {
        (kind, value): _Rivals([other for other in all_settings if other[kind] == value])
        for kind in ("strategy", "dataset")
        for value in {own[kind] for own in all_settings}
    }

    def label(own: Mapping[str, str]) -> str:
        apart: dict[str, None] = {}
        for name, value in own.items():
            kind = _KINDS.get(name.split(".")[0])
            rivals = everybody if kind is None or name == kind else kinds[kind, own[kind]]
            if name != "strategy" and name in rivals.varying:
                apart[_formatted(name, value, rivals.settings)] = None
        shown = list(apart) if len(apart) <= NAMED else [*list(apart)[:NAMED], f"{len(apart) - NAMED} more"]
        return f"{own['strategy']} ({', '.join(shown)})" if shown else own["strategy"]

    return [label(own) for own in all_settings]


_KINDS = {"strategy": "strategy", "evaluation": "strategy", "dataset": "dataset"}
"""Groups of settings that set rows apart only from rows of the same strategy, or the same pair of tasks."""


@dataclass(frozen=True)
class _Rivals:
    """The settings of rows that are told apart."""

    settings: Sequence[Mapping[str, str]]

    @cached_property
    def varying(self) -> frozenset[str]:
        """Names of the settings that do not have one value in all rows."""
        values: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        for own in self.settings:
            counts.update(own.keys())
            for name, value in own.items():
                values.setdefault(name, set()).add(value)
        return frozenset(n for n, found in values.items() if len(found) > 1 or counts[n] < len(self.settings))


def _formatted(name: str, value: str, rivals: Iterable[Mapping[str, str]]) -> str:
    """Format a setting for a label; an out-of-distribution task that a rival lacks is shown by its name alone."""
    if name == "dataset":
        return value if " -> " in value else f"{value}, no source"
    path = name.removeprefix("strategy.").removeprefix("dataset.")
    if name.startswith(_OOD_TASKS):
        task = name.removeprefix(_OOD_TASKS).split(".")[0]
        if any(not any(key.startswith(f"{_OOD_TASKS}{task}.") for key in other) for other in rivals):
            return f"OOD {task}"
        path = f"OOD {name.removeprefix(_OOD_TASKS)}"
    last = path.split(".")[-1]
    if last == "_target_":
        path, value = path.removesuffix("._target_"), value.split(".")[-1]
    elif last == "path" and len(value) > LONG:
        value = f"…{value[1 - LONG :]}"
    return f"{path}={value if len(value) <= LONG else f'{value[: LONG - 1]}…'}"
