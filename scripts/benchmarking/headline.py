"""The headline: what shift takes to come within a point of full, and what one more member takes.

Each pair of the study, eight members, three seeds: ``full`` by its recipe and by shorter ones, ``shift`` with longer
and longer tiny fine-tuning. The shift is compared with ``full`` by its recipe, and with the shortest ``full`` that is
within the point too: much of what a shift saves, a shorter schedule may save as well. Accuracy is that of ensembles on
test images, the mean over seeds. Runs are kept in multirun/headline, and not repeated.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarking.measure import Options, Result, under
from ensemble_transfer.report.record import Record, read_records
from ensemble_transfer.training.recipe import Recipes

PAIRS = ("mnist_to_fashion", "letters_to_hebrew", "letters_to_digits", "digits_to_mnist")
"""Those but the last need `scripts/fetch_data.py letters hebrew font_digits` and Debian's dataset-fashion-mnist."""

STEPS = {"full": (300, 150, 75, 38), "shift": (10, 20, 40, 80, 160)}
"""Steps of full fine-tuning, the recipe's first, and of shift's tiny fine-tuning."""

QUICK = [
    *(f"recipe.{name}.steps=2" for name in ("ancestor", "source", "probe")),
    *(f"dataset.target.{name}=50" for name in ("train", "validation", "test")),
]


@dataclass(frozen=True)
class Point:
    """Runs of one strategy and number of steps: means over seeds, of a whole transfer and of one member more."""

    steps: int
    accuracy: float
    flops: float
    cpu: float
    marginal_cpu: float


def run(options: Options) -> Result:
    """Run the sweeps that have not been run, and compare by pair."""
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            return measure(Path(folder), ["digits_to_mnist"], {"full": (4, 2), "shift": (1,)}, "0", 2, QUICK, options)
    return measure(Path("multirun", "headline"), PAIRS, STEPS, "0,1,2", 8, [], options)


def measure(  # noqa: PLR0913
    root: Path,
    pairs: tuple[str, ...] | list[str],
    grid: Mapping[str, tuple[int, ...]],
    seeds: str,
    members: int,
    more: list[str],
    options: Options,
) -> Result:
    """Sweep below a folder; return each pair's ratios, and draw the curves where results are saved."""
    found: Result = {"members": members, "seeds": seeds}
    curves = {}
    for pair in pairs:
        for strategy, steps in grid.items():
            swept = f"recipe.{'tiny' if strategy == 'shift' else 'full'}.steps={','.join(map(str, steps))}"
            command = [sys.executable, "-m", "ensemble_transfer", "-m", f"seed={seeds}", f"dataset={pair}"]
            command += [f"+strategy={strategy}", swept, f"ensemble.size={members}", *more, "trainer.progress=false"]
            command += [f"trainer.threads={options.threads}", "evaluation.diagnostics=false"]
            where = [f"store.root={root}/store", f"hydra.sweep.dir={root}/{pair}/{strategy}"]
            subprocess.run([*command, *where], check=True, stdout=subprocess.DEVNULL)
        curves[pair] = {strategy: points(strategy, root / pair / strategy) for strategy in grid}
        found |= under(pair, compare(curves[pair]["full"], curves[pair]["shift"]))
    if options.save is not None:
        draw(curves, options.save / "headline.svg")
    return found


def points(strategy: str, sweep: Path) -> list[Point]:
    """Return a sweep's runs, averaged over seeds, by number of steps, the fewest first."""
    runs: dict[int, list[Record]] = {}
    for record in read_records([sweep]).values():
        recipe = record.config["recipe"]["tiny" if strategy == "shift" else "full"]
        runs.setdefault(recipe["steps"], []).append(record)
    return [
        Point(
            steps,
            mean(record.metrics["target/test/ensemble/accuracy"] for record in records),
            mean(record.cost["total"]["flops"] for record in records),
            mean(record.cost["total"]["cpu_seconds"] for record in records),
            mean(record.cost["marginal"]["cpu_seconds"] for record in records),
        )
        for steps, records in sorted(runs.items())
    ]


def compare(full: list[Point], shift: list[Point]) -> Result:
    """Return what shift takes to come within a point of the longest full fine-tuning, or where it is at its best."""
    whole = full[-1]
    needed = whole.accuracy - 0.01
    shortest = next(point for point in full if point.accuracy >= needed)
    reached = [point for point in shift if point.accuracy >= needed]
    taken = reached[0] if reached else max(shift, key=lambda point: point.accuracy)
    by_recipe = next((point for point in shift if point.steps == Recipes().tiny.steps), shift[0])
    return {
        "accuracy of full": whole.accuracy,
        "steps of the shortest full within a point": shortest.steps,
        "shift within a point of full": "yes" if reached else f"not with {shift[-1].steps} tiny steps or fewer",
        **under("there, or at its best", {"tiny steps": taken.steps, **shares(taken, whole)}),
        "there, or at its best/ratio FLOPs to the shortest full": taken.flops / shortest.flops,
        "there, or at its best/ratio CPU to the shortest full": taken.cpu / shortest.cpu,
        **under("by the recipe", {"tiny steps": by_recipe.steps, **shares(by_recipe, whole)}),
    }


def shares(shift: Point, full: Point) -> Result:
    """Return what a shift reaches, and what it and one more member take of a full fine-tuning."""
    return {
        "accuracy of shift": shift.accuracy,
        "ratio FLOPs to full": shift.flops / full.flops,
        "ratio CPU to full": shift.cpu / full.cpu,
        "one more member, CPU s": shift.marginal_cpu,
        "ratio CPU, one more member to full": shift.marginal_cpu / full.marginal_cpu,
    }


def draw(curves: Mapping[str, Mapping[str, list[Point]]], path: Path) -> None:
    """Draw accuracy against the CPU seconds of a transfer, a panel for each pair."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.2), layout="constrained", squeeze=False)
    for axis, (pair, strategies) in zip(axes[0], curves.items(), strict=True):
        for strategy, found in strategies.items():
            line = axis.plot([p.cpu for p in found], [p.accuracy for p in found], "o-", label=strategy)[0]
            for point in found:
                axis.annotate(
                    f"{point.steps}",
                    (point.cpu, point.accuracy),
                    (3, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color=line.get_color(),
                )
        axis.axhline(strategies["full"][-1].accuracy - 0.01, linestyle=":", color="gray", label="full - 1 point")
        axis.set(title=pair.replace("_to_", " -> "), xlabel="CPU s of the transfer", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.margins(y=0.1)
    axes[0][0].set_ylabel("ensemble accuracy")
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
