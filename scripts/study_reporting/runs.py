"""The runs of a study: their records as a table, what is missing, and what they cost together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ensemble_transfer.metrics.equivalent import deep_ensemble_equivalent
from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.report.rows import BY_TIME, COLUMNS, FINE_TUNINGS, NETWORKS, WORTH, WORTH_PER_COST
from ensemble_transfer.report.statistics import Difference, paired_difference

KEYS = ["dataset", "M", "strategy"]
MORE = {
    "soup NLL": "target/test/soup/nll",
    "validation accuracy": "target/validation/ensemble/accuracy",
    "probe gain": "shift/probe_gain",
    "probe gain over random": "shift/probe_gain_over_random",
    "zero-shot accuracy": "shift/zero_shot_accuracy",
    "relative norm": "shift/relative_norm",
    "source barrier": "source/validation/barrier",
    "source weight distance": "source/diversity/weight_distance",
}
FULL_MEMBERS = "full members"
TABLE = [
    replace(column, name=FULL_MEMBERS, digits=1) if column.name == WORTH else column
    for column in COLUMNS
    if column.name not in (FINE_TUNINGS, BY_TIME, NETWORKS, WORTH_PER_COST)
]
"""Columns of the study's tables: those of comparisons at version 0.1."""

SPENT = ("steps", "flops", "seconds", "cpu_seconds")


@dataclass(frozen=True)
class Study:
    """A study, finished or not.

    Attributes:
        records: By the run's folder, failed ones too.
        planned: Number of runs that the sweeps ask for; None where a folder does not say.
        frame: A row for each finished run.
    """

    records: Mapping[Path, Record]
    planned: int | None
    frame: pd.DataFrame

    @classmethod
    def read(cls, sweeps: Sequence[Path]) -> Study:
        """Read the records below folders of sweeps.

        Raises:
            ValueError: If a folder is missing, a record cannot be read, no run has finished, or two finished runs
                differ in more than pair, members, strategy and seed.
        """
        records = read_records(sweeps)
        if not any(record.status == "finished" for record in records.values()):
            raise ValueError(f"no run has finished below {', '.join(map(str, sweeps))}")
        counts = [_planned(sweep) for sweep in sweeps]
        frame = _frame([record for record in records.values() if record.status == "finished"])
        twice = frame[frame.duplicated([*KEYS, "seed"])]
        if len(twice):
            pair, members, strategy, seed = twice.iloc[0][[*KEYS, "seed"]]
            raise ValueError(f"more than one run of {strategy}, {pair}, {members} members, seed {seed}")
        return cls(records, None if None in counts else sum(c for c in counts if c is not None), frame)

    @property
    def finished(self) -> dict[Path, Record]:
        """The finished runs by their folder."""
        return {folder: record for folder, record in self.records.items() if record.status == "finished"}

    @property
    def pairs(self) -> list[str]:
        """Pairs of tasks, in the order met."""
        return list(dict.fromkeys(self.frame["dataset"]))

    @property
    def strategies(self) -> list[str]:
        """Strategies, in the order met."""
        return list(dict.fromkeys(self.frame["strategy"]))

    def sizes(self, pair: str) -> list[int]:
        """Return the numbers of members that a pair has runs of, ascending."""
        return sorted(self.frame.loc[self.frame["dataset"] == pair, "M"].unique().tolist())

    def by_seed(self, pair: str, members: int, strategy: str, column: str) -> dict[int, float]:
        """Return the known numbers of runs that differ in the seed alone."""
        frame = self.frame
        own = frame[(frame["dataset"] == pair) & (frame["M"] == members) & (frame["strategy"] == strategy)]
        return dict(own.set_index("seed")[column].dropna())

    def difference(self, pair: str, members: int, strategies: tuple[str, str], column: str) -> Difference | None:
        """Return the difference of two strategies, paired by seed; None where they share no seed."""
        one, other = (self.by_seed(pair, members, strategy, column) for strategy in strategies)
        return paired_difference(one, other)

    def table(self) -> pd.DataFrame:
        """Return mean, standard deviation and n over seeds of every number, by pair, members and strategy."""
        numbers = self.frame.drop(columns="seed").groupby(KEYS, sort=False)
        spread = numbers.agg(["mean", "std"])
        spread.columns = [f"{name} {part}" for name, part in spread.columns]
        spread.insert(0, "n", numbers.size())
        return spread.reset_index()


def _frame(records: Sequence[Record]) -> pd.DataFrame:
    full: dict[tuple[str, int, int], list[Record]] = {}
    for record in records:
        if record.strategy == "full":
            full.setdefault((record.dataset, record.ensemble["size"], record.seed), []).append(record)
    rows = []
    for record in records:
        size = record.ensemble["size"]
        row = {"dataset": record.dataset, "M": size, "strategy": strategy_of(record), "seed": record.seed}
        row |= {column.name: column.read(record) for column in TABLE}
        row[FULL_MEMBERS] = equivalent(record, full.get((record.dataset, size, record.seed), []))
        row |= {name: record.metrics.get(key) for name, key in MORE.items()}
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return pd.DataFrame(rows)


def equivalent(record: Record, full: Sequence[Record]) -> float | None:
    """Return how many fully fine-tuned members an ensemble equals by calibrated NLL, from 1 to as many as there are."""
    nll = record.metrics.get("target/test/calibrated/nll")
    reference = (full[0].curves.get("ensemble_size") or {}).get("calibrated_nll") if full else None
    if nll is None or not reference or None in reference:
        return None
    return min(deep_ensemble_equivalent(nll, reference), float(len(reference)))


def strategy_of(record: Record) -> str:
    """Return a run's strategy, and how it searched the scale, where it did (version 0.1: ``search``)."""
    options = record.config.get("strategy", {})
    search = options.get("search", "probe" if options.get("if_better") else "none")
    return record.strategy if search == "none" else f"{record.strategy} (search={search})"


def _planned(sweep: Path) -> int | None:
    """Return how many jobs a sweep's ``multirun.yaml`` asks for; None where it does not say."""
    file = sweep / "multirun.yaml"
    if not file.is_file():
        return None
    hydra = (yaml.safe_load(file.read_text()) or {}).get("hydra") or {}
    swept = dict((hydra.get("sweeper") or {}).get("params") or {})
    given = (hydra.get("overrides") or {}).get("task") or []
    swept |= dict(override.split("=", 1) for override in given)
    return math.prod(len(str(values).split(",")) for values in swept.values()) if swept else None


def unique_cost(records: Iterable[Record]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what was spent on source ensembles and on transfers, each fit counted once.

    A record has the cost of a phase and how many of its fits came from the store: those fits are another run's, and
    count by their share of the phase. Source ensembles of fewer members are part of larger ones.
    """
    source: dict[tuple[str, ...], Mapping[str, float]] = {}
    moved = dict.fromkeys(SPENT, 0.0)
    for record in records:
        data = record.config.get("dataset", {}).get("source")
        key = (record.backbone, record.dataset.split(" -> ")[0], str(data), str(record.seed))
        spent = record.cost.get("source") or {}
        if spent.get("flops", 0) >= source.get(key, {}).get("flops", 0):
            source[key] = spent
        for phase, cost in (record.cost.get("phases") or {}).items():
            for name in SPENT:
                moved[name] += (1 - _reused(record, phase)) * cost.get(name, 0)
    return {name: sum(spent.get(name, 0) for spent in source.values()) for name in SPENT}, moved


def _reused(record: Record, phase: str) -> float:
    """Return the share of a phase's fits that came from the store."""
    donors = 0 if record.strategy == "matched" else record.config.get("strategy", {}).get("donors", 0)
    size = record.ensemble["size"]
    fits = (donors or size) if phase == "full" else size - donors
    reused = {fit["member"] for fit in record.reused_fits if fit["phase"] == phase}
    return min(1.0, len(reused) / fits) if fits else 0.0


@dataclass(frozen=True)
class Added:
    """An added member against a full fine-tuning of the same member.

    Attributes:
        price: Its operations as a share of those of a full fine-tuning, the mean over seeds; NaN if unknown.
        accuracy: Mean accuracy of recipients minus that of the same members fully fine-tuned, paired by seed.
    """

    price: float
    accuracy: Difference | None


def added(study: Study, pair: str, members: int) -> Added | None:
    """Return how a member that the shift adds compares; None where shift and full share no seed."""
    runs = {
        (strategy_of(record), record.seed): (folder, record)
        for folder, record in study.finished.items()
        if record.dataset == pair and record.ensemble["size"] == members
    }
    prices, own, full = [], {}, {}
    for (strategy, seed), (folder, record) in runs.items():
        if strategy != "shift" or ("full", seed) not in runs:
            continue
        reference, other = runs["full", seed]
        marginal, whole = record.cost.get("marginal"), other.cost.get("total")
        if marginal and whole:
            prices.append(marginal["flops"] * members / whole["flops"])
        first = record.config.get("strategy", {}).get("donors", 1)
        shifted, fine_tuned = _accuracies(record, folder), _accuracies(other, reference)
        if shifted is not None and fine_tuned is not None and members > first:
            own[seed], full[seed] = shifted[first:].mean(), fine_tuned[first:].mean()
    if not prices and not own:
        return None
    return Added(float(np.mean(prices)) if prices else math.nan, paired_difference(own, full))


def _accuracies(record: Record, folder: Path) -> np.ndarray | None:
    """Return each member's test accuracy, shape (members,): from the record, or predictions; None without either."""
    known = record.curves.get("member_accuracy")
    if known is not None:
        return np.asarray(known)
    file = folder / "predictions.npz"
    if not file.is_file():
        return None
    with np.load(file) as arrays:
        return (arrays["probabilities"].argmax(-1) == arrays["labels"]).mean(-1)
