"""The runs of the frontier, chosen by their settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive, flat

Spec = Mapping[str, Any]
"""Settings that choose runs: strategy, options of the strategy by their names, budget, and ``lr`` as a factor."""

ONE: Spec = {"strategy": "few", "members": 1, "cycles": "[]", "image_size": None, "budget": 1}
TWO: Spec = {"strategy": "few", "members": 2, "cycles": "[]", "image_size": None}

UNSHIFTED = "zero_shot, scale 0"
"""The control of added members: statistics and a probed head as in ``zero_shot``, and no shift."""

_OF_A_SEED = ("seed", ".seed", ".fold")
"""How the settings end that runs of one spec may differ in: a seed draws labels too, and on stamps it has a fold."""

_SHARED = ("recipe.ancestor.", "recipe.source.", "recipe.full.", "backbone.", "ensemble.", "dataset.", "evaluation.")
"""How the settings begin that all runs of a pair have in common, but for those of ``_OF_A_RUN``."""

_OF_A_RUN = ("recipe.full.lr", "evaluation.corruptions")
"""Settings of these that runs may differ in: a rate may be wrong, and corruptions are for the claims that need them."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of the chosen seeds by pair of tasks, each with what was run, flat.

    Attributes:
        by_pair: Records and their decisive settings, in an order of their own, wherever they were found.
        rates: The usual learning rate of ``recipe.full`` of a pair.
        rivals: The single strategies of a pair that the ``best`` is one of; one with a budget counts at that alone.
    """

    by_pair: Mapping[str, Sequence[tuple[Record, Mapping[str, str]]]]
    rates: Mapping[str, float]
    rivals: Mapping[str, Sequence[Spec]]

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        seeds: Collection[int],
        others: Mapping[str, Collection[int]],
        rivals: Mapping[str, Sequence[Spec]],
    ) -> Runs:
        """Return the runs of some seeds, and of other seeds for some pairs.

        Raises:
            ValueError: If runs of a pair differ in what decides the start, the labels or a fine-tuning.
        """
        by_pair: dict[str, list[tuple[Record, Mapping[str, str]]]] = {}
        for record in records:
            wanted = others.get(record.dataset, seeds)
            if record.status == "finished" and record.tested and record.seed in wanted:
                by_pair.setdefault(record.dataset, []).append((record, dict(flat(decisive(record.config)))))
        by_pair = {pair: sorted(by_pair[pair], key=_place) for pair in sorted(by_pair)}
        for pair, runs in by_pair.items():
            _require_equal(pair, ((record.seed, _shared(own)) for record, own in runs))
        rates = {
            pair: float(Counter(own.get("recipe.full.lr", "nan") for _, own in runs).most_common(1)[0][0])
            for pair, runs in by_pair.items()
        }
        return cls(by_pair, rates, rivals)

    def find(self, pair: str, spec: Spec, budget: float | None) -> dict[int, Record]:
        """Return the runs of a spec by seed.

        Raises:
            ValueError: If the spec fits runs of a seed that differ, or runs that differ in more than their seeds.
        """
        found: dict[int, tuple[Record, Mapping[str, str]]] = {}
        for record, own in self.by_pair.get(pair, ()):
            if self._fits(pair, record, own, {"budget": budget, "lr": 1} | dict(spec)):
                earlier = found.setdefault(record.seed, (record, own))
                if earlier[1] != own:
                    raise ValueError(f"{pair}, seed {record.seed}: several runs fit {dict(spec)} at {budget}")
        _require_equal(f"{pair}, {dict(spec)} at {budget}", ((seed, found[seed][1]) for seed in sorted(found)))
        return {seed: record for seed, (record, _) in found.items()}

    def _fits(self, pair: str, record: Record, own: Mapping[str, str], spec: Spec) -> bool:
        options = {f"strategy.{k}": v for k, v in spec.items() if k not in ("strategy", "budget", "lr")}
        factor = float(own.get("recipe.full.lr", "nan")) / self.rates[pair]
        return (
            _name(record, own) == spec["strategy"]
            and _same(own["budget"], spec["budget"])
            and (math.isnan(factor) or abs(math.log(factor / spec["lr"])) < 0.1)
            and all(str(own.get(name)) == str(value) for name, value in options.items())
        )

    def budgets(self, pair: str) -> list[float]:
        """Return the budgets of a pair, ascending."""
        return sorted({float(own["budget"]) for _, own in self.by_pair.get(pair, ()) if own["budget"] != "None"})

    def singles(self, pair: str, budget: float) -> list[Spec]:
        """Return the specs of all strategies at a budget but ``auto``."""
        specs: dict[str, Spec] = {}
        for record, own in self.by_pair.get(pair, ()):
            if record.strategy != "auto" and _same(own["budget"], budget):
                options = {name.removeprefix("strategy."): v for name, v in own.items() if name.startswith("strategy.")}
                spec = {"strategy": record.strategy} | {k: v for k, v in options.items() if k != "_target_"}
                specs.setdefault(str(sorted(spec.items())), spec)
        return list(specs.values())


def _place(run: tuple[Record, Mapping[str, str]]) -> tuple[str, str, int]:
    record, own = run
    return record.strategy, str(sorted((k, v) for k, v in own.items() if not k.endswith(_OF_A_SEED))), record.seed


def _shared(own: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in own.items() if name.startswith(_SHARED) and name not in _OF_A_RUN}


def _require_equal(what: str, runs: Iterable[tuple[int, Mapping[str, str]]]) -> None:
    """Raise a ValueError if runs, each with its seed and settings, differ in more than their seeds."""
    first: tuple[int, Mapping[str, str]] | None = None
    for seed, every in runs:
        own = {name: value for name, value in every.items() if not name.endswith(_OF_A_SEED)}
        first = first or (seed, own)
        both = first[1].keys() | own.keys()
        differing = sorted(name for name in both if str(first[1].get(name)) != str(own.get(name)))  # absent is None
        if differing:
            one, other = (settings.get(differing[0]) for settings in (first[1], own))
            raise ValueError(f"{what}: seeds {first[0]} and {seed} have {differing[0]} {one} and {other}")


def _name(record: Record, own: Mapping[str, str]) -> str:
    """Return the name of what was run: the strategy, or that of the control that a scale of 0 makes of it."""
    unshifted = record.strategy == "zero_shot" and float(own.get("strategy.scale", 1)) == 0
    return UNSHIFTED if unshifted else record.strategy


def _same(own: str, wanted: float | None) -> bool:
    return own == "None" if wanted is None else own != "None" and float(own) == wanted
