"""Recompute a page of a protocol by a second program, from records and predictions, and list what disagrees.

    mkdir -p redrawn; tar xJf benchmarks/photos/records.tar.xz -C redrawn
    python scripts/evidence/recompute.py redrawn benchmarks/photos
    python scripts/evidence/recompute.py redrawn/development benchmarks/photos/development --seeds 0 1 2

It shares no code with the package and none with frontier_report.py: records are read as JSON, statistics are those of
SciPy and pandas. It reads the page, and computes the claims with their verdicts, the means, the regret of ``auto`` and
the tables of pairs anew. Where runs have their predictions.npz, accuracy and calibrated NLL come from these, with a
temperature that SciPy fits. It knows strategies with ``members`` and ``image_size``, as the protocol of photos has
them, and neither gains and looks nor the rates that ``auto`` took. The exit code is 1 if a cell disagrees,
and 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import permutation_test, ttest_1samp

MEASURES = {
    "accuracy": ("ensemble/accuracy", 1),
    "calibrated NLL": ("calibrated/nll", -1),
    "AURC": ("selective/aurc", -1),
    "coverage at 5% risk": ("selective/coverage_at_5_risk", 1),
    "corrupted accuracy": ("corruption/mean/3/accuracy", 1),
}
"""Name on the page, name in a record below ``target/test``, and the sign that makes more better."""
COSTS = {"fine-tunings": "fine_tunings", "by time": "fine_tunings_by_time", "CPU seconds": "cpu_seconds"}
OPTIONS = ("members", "image_size")
NUMBER = re.compile(r"[+-]?\d+\.?\d*(?:e[+-]?\d+)?")
LEVEL, FLAT = 0.05, 1e-12
Page = Mapping[str, list[Mapping[str, str]]]
"""The tables of a page by their headings: rows, by the names of their columns."""
Compared = tuple[str, str, list[float] | str]
"""What is compared: where it stands, the page's cell, and its numbers or its text as recomputed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a page with what is computed anew; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="DIR", help="folder of records, and of predictions if there are any")
    parser.add_argument("page", type=Path, metavar="PAGE", help="folder of the page, README.md")
    parser.add_argument("--claims", type=Path, default=Path("benchmarks/photos/claims.yaml"), metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="default: the ten of the file of claims")
    asked = parser.parse_args(arguments)
    try:
        protocol = yaml.safe_load(asked.claims.read_text(encoding="utf-8"))
        seeds = asked.seeds or range(protocol["first seed"], protocol["first seed"] + 10)
        runs = read(asked.runs, seeds)
        if runs.empty:
            raise ValueError(f"no finished run of seeds {seeds[0]} to {seeds[-1]} below {asked.runs}")
        page = tables((asked.page / "README.md").read_text(encoding="utf-8"))
        if missing := {"Claims", "Means over pairs", "Regret of auto", *runs["pair"]} - page.keys():
            raise ValueError(f"{asked.page / 'README.md'}: no table of {', '.join(sorted(missing))}")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    compared, wrong = 0, 0
    parts = (
        claims(runs, protocol, page, len(seeds)),
        over_pairs(runs, protocol, page),
        of_auto(runs, protocol, page),
        of_pairs(runs, page),
    )
    for place, cell, values in chain.from_iterable(parts):
        compared += 1
        if not agree(cell, values):
            wrong += 1
            print(f"{place}: the page has {cell}, recomputed {values}")
    print(f"{len(runs)} runs, {int(runs['predicted'].sum())} of them from predictions; {compared} cells, {wrong} wrong")
    return 1 if wrong else 0


def read(folder: Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Return the finished runs of the seeds, one a row; the same run in two places once."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] != "finished" or record["seed"] not in seeds:
            continue
        given, metrics, total = record["config"]["strategy"], record["metrics"], record["cost"]["total"]
        row = {"pair": record["dataset"], "seed": record["seed"], "strategy": record["strategy"]}
        row |= {"budget": float(record["config"]["budget"]), "networks": record["ensemble"]["size"]}
        row |= {option: str(given.get(option)) for option in OPTIONS} | {
            name: total[key] for name, key in COSTS.items()
        }
        row |= {name: metrics.get(f"target/test/{key}", np.nan) for name, (key, _) in MEASURES.items()}
        row |= predicted(path.with_name("predictions.npz"))
        rows[record["checksum"]] = row
    return pd.DataFrame(rows.values())


def predicted(path: Path) -> dict[str, Any]:
    """Return accuracy and calibrated NLL of an ensemble from its predictions; nothing else if there are none.

    The temperature divides the logarithm of the mean probability. It has the lowest NLL on validation (Guo et al.
    2017), where a tenth of an image more is spread over all classes.
    """
    if not path.exists():
        return {"predicted": False}
    with np.load(path) as kept:
        test, valid = (np.log(kept[p + "probabilities"].astype(float).mean(0).clip(1e-38)) for p in ("", "validation/"))
        labels, of_valid = kept["labels"], kept["validation/labels"]

    def losses(log_t: float, logits: np.ndarray) -> np.ndarray:
        scaled = logits / np.exp(log_t)
        return logsumexp(scaled, axis=1, keepdims=True) - scaled

    def objective(log_t: float) -> float:
        every = losses(log_t, valid)
        return float(every[np.arange(len(valid)), of_valid].sum() + 0.1 * every.mean())

    best = minimize_scalar(objective, bounds=np.log((0.05, 100)), method="bounded", options={"xatol": 1e-9}).x
    nll = float(losses(best, test)[np.arange(len(test)), labels].mean())
    return {"predicted": True, "accuracy": float(np.mean(test.argmax(1) == labels)), "calibrated NLL": nll}


def tables(page: str) -> Page:
    """Return the first table below each heading of a page, its rows by the names of their columns."""
    found = {}
    for part in re.split(r"(?m)^## ", page)[1:]:
        title, _, text = part.partition("\n")
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
        found[title] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def by_seed(runs: pd.DataFrame, pair: str, budget: float, spec: Mapping[str, Any], measure: str) -> pd.Series:
    """Return a measure of a strategy by seed, more is better."""
    found = runs[(runs["pair"] == pair) & (runs["budget"] == budget)]
    for name, value in spec.items():
        found = found[found[name] == str(value)]
    series = found.set_index("seed")[measure].dropna() * MEASURES[measure][1]
    if not series.index.is_unique:
        raise ValueError(f"{pair} at {budget}: several runs fit {dict(spec)}")
    return series


def lead(runs: pd.DataFrame, pair: str, claim: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> pd.Series:
    """Return own minus other on a pair, by seed, the mean over the budgets."""
    each = []
    for budget in claim["budgets"]:
        own = by_seed(runs, pair, budget, claim["own"], claim["measure"])
        if claim["other"] == "best":
            every = [by_seed(runs, pair, budget, rival, claim["measure"]).reindex(own.index) for rival in rivals]
            whole = [rival for rival in every if rival.notna().all()]
            other = max(whole, key=lambda rival: rival.mean(), default=own * np.nan)
        else:
            other = by_seed(runs, pair, budget, claim["other"], claim["measure"])
        each.append(own - other)
    return pd.concat(each, axis=1).dropna().mean(axis=1)


def interval(values: pd.Series) -> list[float]:
    """Return the mean with its 95% interval by Student's t; the mean alone where nothing varies."""
    if len(values) < 2 or values.std() <= FLAT:
        return [values.mean()] if len(values) else []
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    return [values.mean(), low, high]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm (1979); one that is unknown counts as 1."""
    known = pd.Series(p_values, dtype=float).fillna(1.0).sort_values()
    steps = (known * np.arange(len(known), 0, -1)).clip(upper=1).cummax()
    return list(steps.sort_index())


def claims(runs: pd.DataFrame, protocol: Mapping[str, Any], page: Page, least: int) -> Iterator[Compared]:
    """Yield the cells of the claims; a claim with fewer seeds than ``least`` has not been run."""
    every = [Tested.of(runs, claim, protocol) for claim in protocol["claims"]]
    adjusted = holm([one.p if len(one.over) >= least else np.nan for one in every])
    for one, after in zip(every, adjusted, strict=True):
        row = next(row for row in page["Claims"] if row["claim"].endswith(f"({one.id})"))
        yield f"{one.id}, n", row["n"], [len(one.over)]
        yield f"{one.id}, lead", row["lead"], interval(one.over)
        for name, value in (("p", one.p), ("p after Holm", after), ("p by sign flips", one.flips)):
            yield f"{one.id}, {name}", row[name], [value] if np.isfinite(value) else []
        yield f"{one.id}, verdict", row["verdict"].strip("*"), one.verdict(after, least)
        texts = row["by pair"].split("; ")
        for pair, values in one.by_pair.items():
            text = next((text for text in texts if text.startswith(f"{pair} ")), "-")
            yield f"{one.id}, {pair}", text.removeprefix(pair), interval(values)


@dataclass(frozen=True)
class Tested:
    """A claim with its lead by pair and over the pairs, by seed, its p-value, and that of sign flips."""

    id: str
    margin: float | None
    by_pair: Mapping[str, pd.Series]
    over: pd.Series
    p: float
    flips: float

    @classmethod
    def of(cls, runs: pd.DataFrame, claim: Mapping[str, Any], protocol: Mapping[str, Any]) -> Tested:
        """Test a claim on its runs."""
        rivals, margin = protocol["rivals"].get(claim["group"], []), claim.get("margin")
        by_pair = {pair: lead(runs, pair, claim, rivals) for pair in protocol["groups"][claim["group"]]}
        over = pd.concat(by_pair.values(), axis=1).dropna().mean(axis=1)
        p = flips = np.nan
        if len(over) > 1:
            options = {"permutation_type": "samples", "n_resamples": np.inf, "vectorized": True}
            flips = permutation_test((over + (margin or 0),), np.mean, **options).pvalue
        if len(over) > 1 and over.std() > FLAT:
            p = ttest_1samp(over, -(margin or 0), alternative="two-sided" if margin is None else "greater").pvalue
        return cls(claim["id"], margin, by_pair, over, p, flips)

    def verdict(self, adjusted: float, least: int) -> str:
        """Return what PROTOCOL.md says of a claim with this p-value after Holm."""
        if len(self.over) < least:
            return "not run"
        if self.over.std() <= FLAT:
            return "no spread"
        mean, _, high = interval(self.over)
        behind = mean < 0 and adjusted < LEVEL if self.margin is None else high < -self.margin
        return "refuted" if behind else "supported" if adjusted < LEVEL else "undecided"


def over_pairs(runs: pd.DataFrame, protocol: Mapping[str, Any], page: Page) -> Iterator[Compared]:
    """Yield the cells of the means over the pairs of the claims about ``auto``."""
    [pairs] = {
        tuple(protocol["groups"][one["group"]]) for one in protocol["claims"] if one["own"]["strategy"] == "auto"
    }
    for row in page["Means over pairs"]:
        found = select(runs[runs["pair"].isin(pairs)], float(row["budget"]), row["strategy"])
        common = found.groupby("seed").filter(lambda own: len(own) == len(pairs))
        means = common.groupby("seed")[["accuracy", "calibrated NLL"]].mean()
        place = f"mean over pairs at {row['budget']}, {row['strategy']}"
        for measure in means:
            yield f"{place}, {measure}", row[measure], [means[measure].mean(), means[measure].std()]
        yield f"{place}, time", row["by time"], [common["by time"].mean()]
        yield f"{place}, n", row["n"], [len(means)]


def of_auto(runs: pd.DataFrame, protocol: Mapping[str, Any], page: Page) -> Iterator[Compared]:
    """Yield what ``auto`` is ahead of the best of its rivals by, and what it took."""
    for row in page["Regret of auto"]:
        pair, budget, measure = row["pair"], float(row["budget"]), row["measure"]
        rivals = next(own for group, own in protocol["rivals"].items() if pair in protocol["groups"][group])
        claim = {"budgets": [budget], "own": {"strategy": "auto"}, "other": "best", "measure": measure}
        place = f"auto on {pair} at {budget:g}"
        yield f"{place}, {measure}", row["auto minus the best"], interval(lead(runs, pair, claim, rivals))
        times = select(runs[runs["pair"] == pair], budget, "auto")["by time"] / budget
        yield f"{place}, time", row["time / budget"], [times.mean(), times.std()]
        yield f"{place}, n", row["n"], [len(times)]


def of_pairs(runs: pd.DataFrame, page: Page) -> Iterator[Compared]:
    """Yield the cells of the tables of pairs, and how many rows each has."""
    for pair, every in runs.groupby("pair"):
        kinds = every.assign(**{name: every[name].where(every["strategy"] != "auto") for name in OPTIONS})
        rows = len(kinds.drop_duplicates(["budget", "strategy", *OPTIONS]))
        yield f"{pair}, rows", str(len(page[pair])), [rows]
        for row in page[pair]:
            found = select(every, float(row["budget"]), row["strategy"])
            place = f"{pair} at {row['budget']}, {row['strategy']}"
            for measure in MEASURES:
                values = found[measure].dropna()
                whole = len(values) == len(found)
                yield f"{place}, {measure}", row[measure], [values.mean(), values.std()] if whole else []
            for name in (*COSTS, "networks"):
                yield f"{place}, {name}", row[name], [found[name].mean()]
            yield f"{place}, n", row["n"], [len(found)]


def select(runs: pd.DataFrame, budget: float, label: str) -> pd.DataFrame:
    """Return the runs at a budget that a label of the page means, such as ``few (members=2, image_size=64)``."""
    strategy, _, options = label.rstrip(")").partition(" (")
    found = runs[(runs["budget"] == budget) & (runs["strategy"] == strategy)]
    if strategy == "auto":
        return found
    given = dict(option.split("=") for option in re.split(r", (?=\w+=)", options) if option)
    return found[[all(run[name] == given.get(name, "None") for name in OPTIONS) for _, run in found.iterrows()]]


def agree(cell: str, recomputed: list[float] | str) -> bool:
    """Return whether a cell of the page is this text, or has these numbers, rounded, and no other."""
    if isinstance(recomputed, str):
        return cell == recomputed
    if cell == "below 0.001":
        return recomputed[0] < 0.0005
    told = NUMBER.findall(cell)
    near = (
        abs(float(t) - r) <= 0.5 * 10 ** -len(t.partition(".")[2]) + 1e-6
        for t, r in zip(told, recomputed, strict=False)
    )
    return len(told) == len(recomputed) and all(near)


if __name__ == "__main__":
    sys.exit(main())
