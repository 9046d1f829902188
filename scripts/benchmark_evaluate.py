"""Time the evaluation of an ensemble's predictions: every metric, by family, and the curves.

    python scripts/benchmark_evaluate.py
    python scripts/benchmark_evaluate.py --members 20 --threads 1 --json

Expect, at the default size (10 members, 10,000 examples, 100 classes, 2 threads of a shared 2-core machine): 0.9 s for
all metrics, 1.7 s with a set of OOD examples of the same size, 7 s for the curves
(benchmarks/evaluate.txt). Times exclude imports and a first, small evaluation that warms torch up.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"members": 10, "examples": 10_000, "classes": 100, "threads": 2, "repeats": 5}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args()
    report = benchmark(chosen.members, chosen.examples, chosen.classes, chosen.threads, chosen.repeats)
    if chosen.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def benchmark(members: int, examples: int, classes: int, threads: int, repeats: int) -> dict[str, Any]:
    """Measure every step; return the settings and, by step, the median of wall and CPU seconds."""
    import torch

    torch.set_num_threads(threads)
    probabilities, labels = draw(members, examples, classes)
    before = peak_bytes()
    times = {name: measure(call, repeats) for name, call in steps(probabilities, labels).items()}
    tensor = probabilities.numel() * probabilities.element_size()
    return {
        "members": members,
        "examples": examples,
        "classes": classes,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "probabilities_bytes": tensor,
        "peak_growth_bytes": peak_bytes() - before,
        "pairwise_tensor_bytes": members * tensor,
        "seconds": times,
    }


def draw(members: int, examples: int, classes: int) -> tuple[Tensor, Tensor]:
    """Draw float32 probabilities of members that share a signal, and labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (examples,), generator=generator)
    signal = torch.randn(examples, classes, generator=generator)
    signal[torch.arange(examples), labels] += 3
    noise = torch.randn(members, examples, classes, generator=generator)
    return (2 * signal + noise).softmax(dim=2), labels


def steps(probabilities: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    from ensemble_transfer.metrics import summary
    from ensemble_transfer.metrics.evaluate import curves, evaluate
    from ensemble_transfer.metrics.predictive import ensemble_mean

    evaluate(probabilities[:, :100], labels[:100])
    mean = ensemble_mean(probabilities)
    return {
        "ensemble and member": lambda: summary.predictive_metrics(probabilities, mean, labels),
        "calibration": lambda: summary.calibration_metrics(mean, labels),
        "calibrated": lambda: summary.calibrated_metrics(mean, labels),
        "selective": lambda: summary.selective_metrics(mean, labels),
        "diversity": lambda: summary.diversity_metrics(probabilities, labels),
        "ood (one set of the same size)": lambda: summary.ood_metrics(probabilities, {"same": probabilities}),
        "evaluate (all but ood)": lambda: evaluate(probabilities, labels),
        "evaluate (all)": lambda: evaluate(probabilities, labels, ood={"same": probabilities}),
        "curves": lambda: curves(probabilities, labels),
    }


def measure(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Time a call: medians of wall seconds and of the process's CPU seconds, and the fastest wall time."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "fastest": min(walls)}


def peak_bytes() -> int:
    """Return the peak of the process's resident memory (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    size = f"{report['members']} members, {report['examples']} examples, {report['classes']} classes"
    console.print(f"{size}; {report['threads']} threads, median of {report['repeats']}")
    console.print(f"torch {report['torch']}, Python {report['python']}, {report['machine']}")
    table = Table("step", "wall s", "CPU s", "fastest s")
    for name, seconds in report["seconds"].items():
        table.add_row(name, *(f"{seconds[kind]:.3f}" for kind in ("wall", "cpu", "fastest")))
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    mib = {key: report[f"{key}_bytes"] / 2**20 for key in ("probabilities", "peak_growth", "pairwise_tensor")}
    console.print(
        f"probabilities {mib['probabilities']:.0f} MiB, peak memory grew by {mib['peak_growth']:.0f} MiB; "
        f"a tensor over all pairs of members would have taken {mib['pairwise_tensor']:.0f} MiB"
    )


if __name__ == "__main__":
    sys.exit(main())
