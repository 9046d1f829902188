"""Seconds and memory against members, examples and weights, and the throughput of a sweep.

Aim: linear or better: a ratio of 1 is linear growth, below 1 is better.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarking.measure import Options, Result, digits, fitter, in_own_process, network, starts, timed, under, widened
from benchmarking.memory import resident
from ensemble_transfer.training.recipe import Recipe

Point = tuple[float, float, float]
"""Size, CPU seconds, MB beyond what the process held before."""

SWEEP = [
    "+strategy=shift,tiny,head",
    "seed=0,1",
    "recipe.tiny.steps=5,10,20,40",
    "ensemble.size=4",
    "recipe.full.steps=100",
    "trainer.progress=false",
]
"""24 jobs that share two source ensembles."""


def run(options: Options) -> Result:
    """Measure every point in a process of its own, and draw the figure where results are saved."""
    quick = options.quick
    sizes: dict[str, Sequence[int]] = {
        "members": (1, 2) if quick else (1, 2, 4, 8, 16, 32),
        "examples": (64, 128) if quick else (1000, 5000, 20_000, 50_000),
        "weights": (1,) if quick else (1, 2, 4, 8),
    }
    found: Result = {}
    curves: dict[str, list[Point]] = {}
    for name, chosen in sizes.items():
        points = [in_own_process("growth", name, size, int(quick), options.threads) for size in chosen]
        curves[name] = [(point["size"], point["cpu"], point["mb"]) for point in points]
        (first, least, _), (last, most, _) = curves[name][0], curves[name][-1]
        found[f"ratio of CPU s per {name[:-1]}, {last:g} to {first:g}"] = (most / last) / (least / first)
        for size, cpu, memory in curves[name]:
            found |= under(f"{size:g} {name}", {"CPU s": cpu, "MB beyond before": memory})
    if options.save is not None:
        draw(curves, options.save / "growth.svg")
    return found | under("sweep", sweep([SWEEP[0], SWEEP[3], *TINY_SWEEP] if quick else SWEEP))


TINY_SWEEP = [f"recipe.{name}.steps=2" for name in ("ancestor", "source", "probe", "head")] + ["recipe.full.steps=3"]


def child(name: str, size: int, options: Options) -> dict[str, float]:
    """Return the median CPU seconds of three fits, their memory, and the size that the axis shows."""
    members = size if name == "members" else 1
    data = digits(size if name == "examples" else 500)
    steps = size // 32 if name == "examples" else 2 if options.quick else 20
    width = size if name == "weights" else 1
    net = network(options=widened(width))
    ours, begin = fitter(options, accelerator="cpu"), starts(net, members)
    ours.fit(network(8), starts(network(8), 1), digits(50, 8), Recipe(1), "warm")
    before = resident()
    peaks: list[int] = []

    def once() -> None:
        fits = ours.fit(net, begin, data, Recipe(steps), "benchmark")
        peaks.append(fits.fitted[0].cost.peak_memory_bytes)

    seconds = sorted(timed(once).cpu for _ in range(1 if options.quick or size >= 20_000 else 3))
    shown = sum(parameter.numel() for parameter in net.build().parameters()) if name == "weights" else size
    return {"size": shown, "cpu": seconds[len(seconds) // 2], "mb": (max(peaks) - before) / 1e6}


def sweep(overrides: Sequence[str]) -> Result:
    """Run a sweep and return its throughput; source ensembles are trained once and then found."""
    with tempfile.TemporaryDirectory() as folder:
        where = [f"store.root={folder}/store", f"hydra.sweep.dir={folder}/sweep"]
        command = [sys.executable, "-m", "ensemble_transfer", "-m", *overrides, *where]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        minutes = (time.perf_counter() - started) / 60
        jobs = len(list(Path(folder, "sweep").glob("*/record.json")))
        sources = len(list(Path(folder, "store", "ensembles").iterdir()))
    return {"jobs": jobs, "source ensembles trained": sources, "minutes": minutes, "jobs a minute": jobs / minutes}


def draw(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw seconds and memory against each size, with a line of linear growth from the first point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(curves), figsize=(3.2 * len(curves), 5), layout="constrained")
    for column, (name, points) in zip(axes.T, curves.items(), strict=True):
        sizes, seconds, memory = zip(*points, strict=True)
        for panel, values in zip(column, (seconds, memory), strict=True):
            panel.loglog(sizes, values, "o-")
            panel.loglog(sizes, [values[0] * size / sizes[0] for size in sizes], ":", color="gray")
        column[1].set(xlabel=name, ylabel="MB beyond before")
        column[0].set(ylabel="CPU s of a fit", title=f"by {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    axis, count, quickly, threads = sys.argv[1:]
    print(json.dumps(child(axis, int(count), Options(bool(int(quickly)), int(threads)))))
