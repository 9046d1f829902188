"""Benchmarks of speed and memory.

    python scripts/benchmark.py overhead executor              # tables
    python scripts/benchmark.py all --save benchmarks/fast     # all but peers and scale; 15 minutes on two quiet cores
    python scripts/benchmark.py peers --peers-env /tmp/peers --install
    python scripts/benchmark.py executor --json                # one flat dict

Every number comes from one run with a fixed number of threads; two things are compared as the median of ratios over
interleaved repetitions, in CPU seconds and in wall seconds. Where other processes want the cores, believe the CPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

NAMES = {
    "overhead": "a fit, and EnsembleModule under a pl.Trainer, against a hand-written loop of plain PyTorch",
    "peers": "a fit against torch-uncertainty and torchensemble, in an environment of their own",
    "executor": "vectorised members against the loop, and what auto takes",
    "workers": "members over 2 and 4 processes against one",
    "batches": "batches on a GPU against sent to it; crops by indexing against a loop",
    "channels_last": "fits and predictions with channels last against channels first",
    "memory": "peak memory by members and executor, against the estimate",
    "cache": "heads on cached features against the frozen forward",
    "shift": "search, statistics, probe and tiny fine-tuning against the donor's fine-tuning",
    "prices": "what a shifted member costs by the number of images",
    "startup": "--help, and the time to the first training step",
    "scale": "whole runs on many images, classes and members against a plain torchvision loop",
    "compare": "the comparison of 132 records, with its figures",
}
APART = ("peers", "scale")
"""Not part of ``all``: one needs an environment of its own, the other some minutes and a GB of disk."""


def main() -> int:
    """Run the benchmarks that are named; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = "; ".join(f"{name}: {what}" for name, what in NAMES.items())
    parser.add_argument(
        "names", nargs="+", choices=[*NAMES, "all"], metavar="NAME", help=f"all (but {' and '.join(APART)}), {listed}"
    )
    parser.add_argument("--json", action="store_true", help="print one flat dict instead of tables")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="also write NAME.txt, NAME.json and a page there")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not what it measures")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on the CPU, default 1")
    parser.add_argument("--peers-env", type=Path, metavar="FOLDER", help="virtual environment of the peers")
    parser.add_argument("--install", action="store_true", help="make that environment first, with pip")
    chosen = parser.parse_args()
    if "peers" in chosen.names and chosen.peers_env is None:
        parser.error("peers needs --peers-env FOLDER")
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # read by torch, here and in the processes started

    from benchmarking import aims
    from benchmarking.measure import Options, about, save, show

    options = Options(chosen.quick, chosen.threads, chosen.save, chosen.peers_env, chosen.install)
    names = [name for name in NAMES if name not in APART] if "all" in chosen.names else chosen.names
    results: dict[str, float | str] = dict(about())
    for name in names:
        result = import_module(f"benchmarking.{name}").run(options)
        if chosen.save is not None:
            save(name, NAMES[name], result, chosen.save)
            aims.write(chosen.save)
        if not chosen.json:
            show(name, NAMES[name], result)
        results |= {f"{name}/{key}": value for key, value in result.items()}
    if chosen.json:
        print(json.dumps(results | {"load_after": os.getloadavg()[0]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
