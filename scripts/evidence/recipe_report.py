"""Print the tables of the searches for a recipe, on development seeds, below some folders.

    python scripts/evidence/recipe_report.py multirun/recipes/small
    python scripts/evidence/recipe_report.py multirun/recipes/pretrained --pack benchmarks/recipes/pretrained.tar.xz

The runs differ in their strategy's options and in settings of the recipe. Those of one strategy and backbone that vary
in the same settings are one search. For each setting the table has the calibrated NLL on validation (a temperature
fitted on either half and used on the other), over the pairs of tasks and seeds that all of the search have. The lowest
mean is marked. The others have their difference from it, paired, with its standard error; so are those within one
standard error. Which is taken, somebody decides.

No run has read test: a folder with one that has is refused. --pack keeps the records, without what only figures need.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.report.settings import decisive, flat
from ensemble_transfer.report.statistics import Spread
from ensemble_transfer.report.tables import markdown as table

NLL = "target/validation/calibrated/nll"
ACCURACY = "target/validation/ensemble/accuracy"
SEARCHED = ("recipe.", "strategy.")

Unit = tuple[str, int]
"""Pair of tasks and seed."""

Setting = tuple[tuple[str, str], ...]
"""Names and values of what a search varies."""


@dataclass(frozen=True)
class Search:
    """The runs of one strategy and backbone that vary in the same settings, by setting and unit."""

    strategy: str
    backbone: str
    runs: Mapping[Setting, Mapping[Unit, Record]]

    @property
    def units(self) -> list[Unit]:
        """Pairs and seeds that every setting has."""
        return sorted(set.intersection(*(set(runs) for runs in self.runs.values())))

    def differences(self, setting: Setting, other: Setting) -> Spread:
        """Return the spread of the differences of calibrated NLL to another setting, over the common units."""
        own, rival = self.runs[setting], self.runs[other]
        return Spread.of([own[unit].metrics[NLL] - rival[unit].metrics[NLL] for unit in self.units])  # type: ignore[operator]

    def mean(self, setting: Setting, key: str, pair: str | None = None) -> float:
        """Return the mean of a metric over the common units, or over those of a pair."""
        units = [unit for unit in self.units if pair in (None, unit[0])]
        return mean(self.runs[setting][unit].metrics[key] for unit in units)  # type: ignore[type-var, return-value]

    @property
    def best(self) -> Setting:
        """The setting with the lowest mean."""
        return min(self.runs, key=lambda setting: self.mean(setting, NLL))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 if there is no search to report."""
    parser = argparse.ArgumentParser(
        prog="python scripts/evidence/recipe_report.py",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of the searches")
    parser.add_argument("--pack", type=Path, metavar="FILE.tar.xz", help="keep the records in an archive")
    options = parser.parse_args(arguments)
    try:
        found = read_records(options.folders)
        searches = searches_of(found.values())
        if not searches:
            raise ValueError(f"no finished search below {', '.join(map(str, options.folders))}")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for search in searches:
        print(page(search), end="\n\n")
    if options.pack is not None:
        pack(found.values(), options.pack)
        print(options.pack)
    return 0


def searches_of(records: Iterable[Record]) -> list[Search]:
    """Return the searches, in the order of their first runs; what every run of a strategy shares names none of them.

    Raises:
        ValueError: If a run was evaluated on test, or two runs of a setting, pair and seed differ in another setting.
    """
    by_strategy: dict[tuple[str, str], list[tuple[Record, dict[str, str]]]] = {}
    for record in records:
        if record.status == "finished" and record.tested:
            raise ValueError(f"{record.command or record.strategy} has read test: a search sets evaluation.test=false")
        if record.status == "finished":
            own = {name: value for name, value in flat(decisive(record.config)) if _matters(name, record)}
            by_strategy.setdefault((record.strategy, record.backbone), []).append((record, own))
    return [
        search for (strategy, backbone), runs in by_strategy.items() for search in _searches(strategy, backbone, runs)
    ]


def _matters(name: str, record: Record) -> bool:
    """Return whether a setting is one of those that are searched, and not of a recipe that the run has not used."""
    part = name.split(".")[1] if name.startswith("recipe.") else "source"
    return name.startswith(SEARCHED) and (part in ("ancestor", "source") or part in record.cost["phases"])


def _searches(strategy: str, backbone: str, runs: Sequence[tuple[Record, Mapping[str, str]]]) -> Iterable[Search]:
    """Yield a strategy's searches: a family for each set of settings in which runs differ from the commonest."""
    names = dict.fromkeys(name for _, own in runs for name in own)
    usual = {name: Counter(own.get(name, "-") for _, own in runs).most_common(1)[0][0] for name in names}
    families: dict[tuple[str, ...], None] = {}
    for _, own in runs:
        changed = tuple(name for name in names if own.get(name, "-") != usual[name])
        families.setdefault(changed)
    for changed in families:
        members: dict[Setting, dict[Unit, Record]] = {}
        for record, own in runs:
            if all(own.get(name, "-") == usual[name] for name in names if name not in changed):
                setting = tuple((name, own.get(name, "-")) for name in changed)
                there = members.setdefault(setting, {}).setdefault((record.dataset, record.seed), record)
                if _aside(there) != _aside(record):
                    where = f"{strategy}, {record.dataset}, seed {record.seed}"
                    raise ValueError(f"{where}: two runs differ in what no search is about, such as ensemble.size")
        search = Search(strategy, backbone, dict(sorted(members.items(), key=_order)))
        if len(members) > 1 and search.units:
            yield search


def _aside(record: Record) -> dict[str, str]:
    """Return the settings that are not searched."""
    return {name: value for name, value in flat(decisive(record.config)) if not name.startswith(SEARCHED)}


def _order(item: tuple[Setting, object]) -> list[tuple[int, float, str]]:
    """Sort numbers by size, and before words."""
    keys = []
    for _, value in item[0]:
        try:
            keys.append((0, float(value), ""))
        except ValueError:
            keys.append((1, 0.0, value))
    return keys


def page(search: Search) -> str:
    """Return a search's heading and table."""
    pairs = list(dict.fromkeys(pair for pair, _ in search.units))
    lines = []
    for setting in search.runs:
        behind = search.differences(setting, search.best)
        error = behind.std / math.sqrt(behind.n) if behind.n > 1 else math.nan
        lowest, near = setting == search.best, behind.mean <= error
        each = [f"{search.mean(setting, NLL, pair):.3f}" for pair in pairs] + [f"{search.mean(setting, NLL):.3f}"]
        apart = "-" if lowest else f"{behind.mean:+.3f} ± {error:.3f}"
        mark = "**lowest**" if lowest else "within a standard error" if near else ""
        values = ", ".join(value for _, value in setting)
        lines.append([values, *each, apart, f"{search.mean(setting, ACCURACY):.3f}", mark])
    varied = ", ".join(name for name, _ in search.best)
    head = [varied, *pairs, "mean", "behind", "accuracy", ""]
    seeds = ", ".join(map(str, sorted({seed for _, seed in search.units})))
    about = f"Calibrated NLL on validation, {search.backbone}, seeds {seeds}."
    return f"## {search.strategy}: {varied}\n\n{about}\n\n{table(head, lines)}"


def pack(records: Iterable[Record], file: Path) -> None:
    """Write finished records into an archive, without reused fits; of curves with what worth and choices need."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:xz") as archive:
        for number, record in enumerate(record for record in records if record.status == "finished"):
            needed = {"choice", "ensemble_size"} if record.strategy == "full" else {"choice"}
            kept = {name: curve for name, curve in record.curves.items() if name in needed}
            data = replace(record, curves=kept, reused_fits=[]).plain()
            content = json.dumps(data, ensure_ascii=False, sort_keys=True).encode()
            member = tarfile.TarInfo(f"{file.name.split('.')[0]}/{number}/record.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(main())
