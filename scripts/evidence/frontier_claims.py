"""What is measured of the frontier's runs, and the claims that are tested on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from frontier_runs import ONE, TWO, Runs, Spec

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.reference import validation_nll
from ensemble_transfer.report.rows import CALIBRATED, NAMED, Column, on_test
from ensemble_transfer.report.statistics import LEVEL, Difference, paired_difference

BySeed = Mapping[int, float]

_COLUMNS = (
    NAMED["accuracy"],
    NAMED[CALIBRATED],
    NAMED["AURC"],
    Column("coverage at 5% risk", on_test("selective/coverage_at_5_risk"), 3, True),
    NAMED["OOD AUROC"],
    Column("corrupted accuracy", on_test("corruption/mean/3/accuracy"), 3, True),
)
MEASURES = {column.name: column for column in _COLUMNS}
"""Measures by name."""

GAIN = "gain per fine-tuning"
"""A measure of two runs: what calibrated NLL falls by from ``one`` member, per fine-tuning that this takes."""

GAIN_WITH_SOURCE = "gain per fine-tuning, source too"
"""The same, where a member's price has its training on the source: its share of the steps of a fine-tuning."""


@dataclass(frozen=True)
class Side:
    """One side of a difference on one pair at one budget: a measure by seed, higher is better."""

    runs: Runs
    measure: str

    def values(self, pair: str, spec: Spec | str, budget: float | None, seeds: Iterable[int]) -> BySeed:
        """Return the measure of a spec, of the ``best`` rival on these seeds, or of the ``rule``.

        There is no best before all rivals have these seeds.
        """
        if spec == "best":
            own, rivals = set(seeds), self.runs.rivals.get(pair, ())
            every = [self.values(pair, r, budget, ()) for r in rivals if _counts(r, budget)]
            whole = own and all(own <= set(values) for values in every)
            return max(every, key=lambda values: mean(values[s] for s in own), default={}) if whole else {}
        if spec == "rule":
            few, head = (self.runs.find(pair, other, budget) for other in (TWO, {"strategy": "head"}))
            both = {s: min(few[s], head[s], key=validation_nll) for s in few.keys() & head.keys()}
            return self._read(both)
        assert not isinstance(spec, str)
        found = self.runs.find(pair, spec, budget)
        return self._gain(pair, found) if self.measure in (GAIN, GAIN_WITH_SOURCE) else self._read(found)

    def _read(self, records: Mapping[int, Record]) -> BySeed:
        column = MEASURES[self.measure]
        sign = 1 if column.higher_is_better else -1
        values = {seed: column.read(record) for seed, record in records.items()}
        return {seed: sign * value for seed, value in values.items() if value is not None}

    def _gain(self, pair: str, records: Mapping[int, Record]) -> BySeed:
        one = self.runs.find(pair, ONE, 1)
        source = self.measure == GAIN_WITH_SOURCE
        return {seed: _gain(record, one[seed], source) for seed, record in records.items() if seed in one}


def _counts(rival: Spec, budget: float | None) -> bool:
    return bool(rival.get("budget", budget) == budget)


def time_of(record: Record) -> float:
    """Return what a run cost by time, in fine-tunings."""
    return float(record.cost["total"]["fine_tunings_by_time"])


def digits_of(measure: str) -> int:
    """Return how many digits a measure is shown with."""
    return MEASURES[measure].digits if measure in MEASURES else 3


def _gain(record: Record, one: Record, source: bool) -> float:
    price = record.cost["total"]["fine_tunings"] - one.cost["total"]["fine_tunings"]
    if source:
        recipe, added = record.config["recipe"], record.ensemble["size"] - one.ensemble["size"]
        price += added * recipe["source"]["steps"] / recipe["full"]["steps"]
    before, after = map(NAMED[CALIBRATED].read, (one, record))
    return (before - after) / price if before is not None and after is not None and price > 0 else math.nan


@dataclass(frozen=True)
class Claim:
    """A claim, as claims.yaml has it, with the pairs of its group."""

    id: str
    says: str
    measure: str
    pairs: Sequence[str]
    budgets: Sequence[float | None]
    own: Spec
    other: Spec | str
    margin: float | None = None

    def leads(self, runs: Runs) -> Mapping[str, BySeed]:
        """Return own minus other by pair and seed, the mean over the budgets; positive is better."""
        side, found = Side(runs, self.measure), {}
        for pair in self.pairs:
            each = []
            for budget in self.budgets:
                own = side.values(pair, self.own, budget, ())
                other = side.values(pair, self.other, budget, own)
                each.append({seed: own[seed] - other[seed] for seed in own.keys() & other.keys()})
            common = set.intersection(*map(set, each))
            found[pair] = {seed: mean(values[seed] for values in each) for seed in common}
        return found

    def test(self, leads: Mapping[str, BySeed]) -> tuple[Difference | None, float]:
        """Return the mean lead over the pairs with its interval, over common seeds, and the p-value of the claim."""
        common = set.intersection(*(set(by_seed) for by_seed in leads.values()))
        over = {seed: mean(by_seed[seed] for by_seed in leads.values()) for seed in common}
        lead = paired_difference(over, dict.fromkeys(over, -(self.margin or 0.0)))
        if lead is None:
            return None, math.nan
        p = lead.p if self.margin is None else lead.p / 2 if lead.mean > 0 else 1 - lead.p / 2
        back = -(self.margin or 0.0)
        return Difference(lead.mean + back, lead.low + back, lead.high + back, lead.p, lead.n), p

    def flips(self, leads: Mapping[str, BySeed]) -> float:
        """Return the two-sided p-value of a sign-flip test, which asks nothing of the differences but symmetry.

        Of all signs that the differences of the seeds could have had, it is the share whose mean lies as far from the
        margin or farther (Fisher 1935). Ten seeds give 1,024, so it is never below 2/1,024.
        """
        common = set.intersection(*(set(by_seed) for by_seed in leads.values()))
        over = [mean(by_seed[seed] for by_seed in leads.values()) + (self.margin or 0.0) for seed in sorted(common)]
        if len(over) < 2:
            return math.nan
        sums = [sum(s * d for s, d in zip(signs, over, strict=True)) for signs in product((1, -1), repeat=len(over))]
        return mean(abs(own) >= abs(sum(over)) - 1e-12 for own in sums)

    def verdict(self, lead: Difference | None, adjusted: float, least: int) -> str:
        """Return supported, refuted, undecided, not run, or ``no spread``: the lead is the same on every seed."""
        if lead is None or lead.n < least:
            return "not run"
        if math.isnan(lead.low):
            return "no spread"
        behind = lead.high < -self.margin if self.margin is not None else adjusted < LEVEL and lead.mean < 0
        if behind:
            return "**refuted**"
        return "**supported**" if adjusted < LEVEL else "undecided"


@dataclass(frozen=True)
class Protocol:
    """What a file of claims says.

    Attributes:
        title: Title of the page.
        page: The text that says how and why, by its path in the repository.
        seeds: The ten confirmation seeds.
        claims: What is tested.
        looks: Differences that nobody claimed beforehand.
        again: The pairs that were run again after a fault, each with its ten reserve seeds.
        rivals: The single strategies that the ``best`` of a pair is one of, by pair.
    """

    title: str
    page: str
    seeds: range
    claims: Sequence[Claim]
    looks: Sequence[Claim]
    again: Mapping[str, range]
    rivals: Mapping[str, Sequence[Spec]]


def read_protocol(path: Path) -> Protocol:
    """Return what a file of claims says; a group of pairs may name other groups."""
    data: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    groups = data["groups"]

    def claims(part: str) -> list[Claim]:
        every = data.get(part, ())
        return [
            Claim(**{k: v for k, v in one.items() if k != "group"}, pairs=_pairs(groups, one["group"])) for one in every
        ]

    def by_pair(part: str) -> dict[str, Any]:
        return {pair: own for group, own in data.get(part, {}).items() for pair in _pairs(groups, group)}

    again = {pair: _ten(first) for pair, first in by_pair("run again").items()}
    text, seeds = (data["title"], data["protocol"]), _ten(data["first seed"])
    return Protocol(*text, seeds, claims("claims"), claims("looks"), again, by_pair("rivals"))


def _ten(first: int) -> range:
    return range(first, first + 10)


def _pairs(groups: Mapping[str, list[str]], name: str) -> list[str]:
    return [pair for inner in groups[name] for pair in (_pairs(groups, inner) if inner in groups else [inner])]
