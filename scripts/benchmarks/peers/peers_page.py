"""The page of the peers: a table for each task, all numbers by seed, and the predictions they are computed from."""

from __future__ import annotations

import ast
import csv
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from peers_photos import load

from ensemble_transfer.metrics.evaluate import evaluate

if TYPE_CHECKING:
    from peers_rows import Place, Row

MEASURES = {"accuracy": 3, "NLL": 3, "calibrated NLL": 3, "ECE": 3, "CPU seconds": 0}
"""Columns, with their decimals."""

TITLES = {"signs": "Hand signs: 10 classes, 240 labels", "solar": "Solar cells: 4 grades of damage, 320 labels"}
TEXT = """# What people would do instead

`python scripts/benchmarks/peers/run.py` makes this page. Everybody gets the same photos (80 more to validate on, 1,000
to test), the same network with the same ImageNet weights (EfficientNet-Lite0), one thread, and as many photos to train
on as two fine-tunings of ours see: 3,200 of 128 pixels a side, with repeats. So CPU seconds differ by what a library
does beside the network. Means and standard deviations are over n seeds, which choose photos, their order, and the head
that a training starts with.

- **NLL** is that of the probabilities as they come; ours come with a temperature. **Calibrated** is with a temperature
  that one function fits on the validation photos, for all. **ECE** is that of the probabilities as they come.
- **CPU seconds** are those of training alone, with a load of {load} (the median over the runs, of the last minute):
  other programs make them longer. They are from {machines}.
  A seed of a task is of one machine.
- **Lines** are those of the function `train` of the row's module in `scripts/benchmarks/peers`.
- AutoGluon's rules are those of its `MultiModalPredictor`, written out: it takes weights from a hub alone. Its batches
  of 128 leave it 25 steps here, which are few. A regression has no schedule to spend.
- **Our settings were developed on these two tasks**, with other seeds. The others have their usual settings: tuned, or
  trained longer, they come closer. The same students' hands are in training and test.

Versions: {versions}.
"""

Labels = NDArray[np.int64]

Finished = Mapping[tuple[str, str, int], Mapping[str, float]]
"""Measures by task, row and seed."""


def write_page(place: Place, rows: Sequence[Row], tasks: Sequence[str], save: Path) -> None:
    """Write page, numbers and predictions into a folder; nothing where nothing has finished."""
    names = {row.name for row in rows}
    paths = [path for path in sorted(place.runs.glob("*.npz")) if path.name.count("-") == 2]
    files = {key: path for path in paths if (key := named(path))[0] in tasks and key[1] in names}
    if not files:
        return
    save.mkdir(parents=True, exist_ok=True)
    found = {key: measured(path, *labels(key[0], key[2], place.data)) for key, path in files.items()}
    tables = [f"\n## {TITLES[task]}\n\n{table(task, rows, found)}" for task in tasks]
    (save / "README.md").write_text(introduction(list(files.values())) + "".join(tables))
    with (save / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "row", "seed", *MEASURES])
        writer.writerows([*key, *(f"{values[name]:.5f}" for name in MEASURES)] for key, values in sorted(found.items()))
    with tarfile.open(save / "predictions.tar.xz", "w:xz") as archive:
        for path in files.values():
            archive.add(path, path.name)


def introduction(paths: Sequence[Path]) -> str:
    """Return the page's text, with the versions and the machine that the runs tell of."""
    told = [json.loads(str(np.load(path)["about"])) for path in paths]
    versions = {name: number for about in told for name, number in about["versions"].items()}
    said = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    machines = " and ".join(f"{name} ({n} runs)" for name, n in Counter(a["processor"] for a in told).most_common())
    return TEXT.format(versions=said, machines=machines, load=f"{median(about['load'] for about in told):.1f}")


def named(path: Path) -> tuple[str, str, int]:
    """Return task, row and seed of a file."""
    task, row, seed = path.stem.split("-")
    return task, row, int(seed)


@lru_cache
def labels(task: str, seed: int, data: Path) -> tuple[Labels, Labels]:
    """Return the labels of validation and test."""
    loaded = load(task, data, seed)
    return loaded.validation.labels.numpy(), loaded.test.labels.numpy()


def measured(path: Path, validation: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return the measures of a run: of the probabilities as they come, and with the temperature of validation."""
    with np.load(path) as run:
        raw = evaluate(run["test"][None], test, validation=(run["validation"][None], validation))
        comes = evaluate(run["comes"][None], test)
        return {
            "accuracy": comes["ensemble/accuracy"],
            "NLL": comes["ensemble/nll"],
            "calibrated NLL": raw["calibrated/nll"],
            "ECE": comes["calibration/ece"],
            "CPU seconds": float(run["seconds"]),
        }


def table(task: str, rows: Sequence[Row], found: Finished) -> str:
    """Return a task's table, the best calibrated NLL first."""
    by_row = defaultdict(list)
    for (of, name, _), values in found.items():
        if of == task:
            by_row[name].append(values)
    ranked = sorted((row for row in rows if row.name in by_row), key=lambda row: nll(by_row[row.name]))
    head = f"| what you would do | {' | '.join(MEASURES)} | lines | n |\n"
    lines = [head, "| --- |" + " ---: |" * (len(MEASURES) + 2) + "\n"]
    for row in ranked:
        runs = by_row[row.name]
        cells = [cell([run[name] for run in runs], digits) for name, digits in MEASURES.items()]
        lines.append(f"| {row.words} | {' | '.join(cells)} | {typed(row.module)} | {len(runs)} |\n")
    return "".join(lines)


def nll(runs: Sequence[Mapping[str, float]]) -> float:
    """Return the mean calibrated NLL."""
    return mean(run["calibrated NLL"] for run in runs)


def cell(values: Sequence[float], digits: int) -> str:
    """Return mean and standard deviation."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def typed(module: str) -> int:
    """Return how many lines the function ``train`` of a module has, without its documentation."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text())
    [train] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    return sum((part.end_lineno or part.lineno) - part.lineno + 1 for part in train.body[1:])
