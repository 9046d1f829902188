"""What a finished sweep leaves: records with every metric, files that were written whole, and pairs of equal seeds."""

import contextlib
import csv
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from world import SMALL

SWEEP = ["-m", "strategy=head,shift", "seed=0,1,2", *SMALL, "hydra.sweep.dir=sweep"]

WHOLE = ("record.json", "ensemble.json", "*.safetensors", "last.ckpt")
"""Files that are written beside their place and moved there: nobody reads half of one."""

DOCUMENTED = Path(__file__).parents[2] / "docs" / "method.md"
"""Names the metrics of a shift."""

_opened: list[set[str]] = []
"""Files that are opened for writing, while somebody looks."""


def checked(folder: Path) -> list[str | None]:
    """Run a sweep in a folder; return what is wrong with each of the things that are promised of it."""
    from ensemble_transfer.report.comparison import Comparison
    from ensemble_transfer.report.record import read_records

    kept: list[Any] = []
    with watched() as opened, _keeping(kept), contextlib.chdir(folder):
        if (code := _command(SWEEP)) != 0:
            return [f"the sweep ends with {code}"]
    records = read_records([folder / "sweep"])
    Comparison.of(records.values(), baseline="head").write(folder / "table")
    with (folder / "table" / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    place, shifted = next(found for found in records.items() if found[1].strategy == "shift")
    with np.load(place / "predictions.npz") as arrays:
        lacking = lacks(shifted.metrics, dict(arrays))
    return [lacking, changed_by_writing(kept, list(records.values())), torn(opened), mispaired(rows, records.values())]


def lacks(metrics: Mapping[str, float | None], arrays: Mapping[str, Any]) -> str | None:
    """Return which metric a record of shift lacks, of those that its predictions give and that the docs name."""
    from ensemble_transfer.metrics.evaluate import evaluate

    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    found = evaluate(arrays["probabilities"], arrays["labels"], validation=held_out)
    expected = {f"target/test/{name}": value for name, value in found.items()}
    named = set(re.findall(r"`(shift/\w+)`", DOCUMENTED.read_text(encoding="utf-8")))
    missing = sorted((named | expected.keys()) - metrics.keys())
    other = [n for n, value in expected.items() if n in metrics and not _same(metrics[n], value)]
    return f"a record lacks, or has another {(missing + other)[0]}" if missing or other else None


def changed_by_writing(returned: Sequence[Any], read: Sequence[Any]) -> str | None:
    """Return which record in a file is not the one that its run gave back."""
    by_run = {(record.strategy, record.seed): record for record in read}
    for record in returned:
        if record.reproducible() != by_run[record.strategy, record.seed].reproducible():
            return f"the record of {record.strategy}, seed {record.seed} is not the one that was written"
    return None if len(returned) == len(read) else f"{len(read)} records of {len(returned)} runs"


def torn(opened: set[str]) -> str | None:
    """Return a file that was written at its own place, where a kill would have left half of it."""
    wrong = [path for path in sorted(opened) if any(fnmatch(Path(path).name, name) for name in WHOLE)]
    return f"{wrong[0]} is not written in one move" if wrong else None


def mispaired(rows: Sequence[Mapping[str, str]], records: Any) -> str | None:
    """Return which interval of a table is not that of differences within seeds, by NumPy and SciPy."""
    from scipy.stats import t

    own: dict[str, dict[int, float]] = {}
    for record in records:
        own.setdefault(record.strategy, {})[record.seed] = record.metrics["target/test/ensemble/accuracy"]
    for row in rows:
        if row["strategy"] == row["baseline"]:
            continue
        pairs = [own[row["strategy"]][seed] - value for seed, value in own[row["baseline"]].items()]
        reach = t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / math.sqrt(len(pairs))
        expected = [np.mean(pairs), np.mean(pairs) - reach, np.mean(pairs) + reach]
        found = [float(row[f"accuracy {name}"]) for name in ("difference", "low", "high")]
        if not np.allclose(found, expected, atol=1e-9):
            return f"{row['strategy']} against {row['baseline']}: {found} in the table, {expected} by pairs"
    return None


@contextlib.contextmanager
def watched() -> Iterator[set[str]]:
    """Collect the files that are opened for writing in the block."""
    if not _opened:
        sys.addaudithook(_note)  # for good: there is no way to take one off
    _opened.append(set())
    try:
        yield _opened[-1]
    finally:
        _opened.append(set())


def _note(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR):
        _opened[-1].add(given[0])


@contextlib.contextmanager
def _keeping(kept: list[Any]) -> Iterator[None]:
    """Keep the records that runs give back."""
    from ensemble_transfer.runs import run as module

    run = module.run

    def keep(*given: Any) -> Any:
        kept.append(run(*given))
        return kept[-1]

    module.run = keep
    try:
        yield
    finally:
        module.run = run


def _command(words: Sequence[str]) -> int:
    """Run a command in this process, silently, and return its exit code."""
    from hydra.core.global_hydra import GlobalHydra

    from ensemble_transfer.cli import main

    GlobalHydra.instance().clear()
    argv, sys.argv = sys.argv, ["ensemble_transfer", *words]
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return main.main()
    finally:
        sys.argv = argv


def _same(one: float | None, other: float) -> bool:
    return bool(np.isclose(math.nan if one is None else one, other, rtol=1e-6, equal_nan=True))
