"""Benchmarks of speed and memory.

    python scripts/benchmarks/benchmark.py overhead executor              # tables
    python scripts/benchmarks/benchmark.py all --save benchmarks/fast     # all but scale
    python scripts/benchmarks/benchmark.py executor --json                # one flat dict

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
    "executor": "vectorised members, and the other memory layout, against the loop, and what auto takes",
    "workers": "members over 2 and 4 processes against one",
    "memory": "peak memory by members and executor, against the estimate, and of runs on photos",
    "predict": "predict on photos against decoding and network alone, heads on one trunk, and a cascade",
    "prices": "what a shifted member and a head cost by the number of images; nothing is trained",
    "startup": "--help, the time to the first training step, and a run whose fits are in the store",
    "scale": "whole runs on many images, classes and members against a plain torchvision loop",
}
APART = ("scale",)
"""Not part of ``all``: it takes some minutes, and a GB of disk."""


def main() -> int:
    """Run the benchmarks that are named; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = "; ".join(f"{name}: {what}" for name, what in NAMES.items())
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all"], metavar="NAME", help=f"all, {listed}")
    parser.add_argument("--json", action="store_true", help="print one flat dict instead of tables")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="also write NAME.json and the table of aims there")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not what it measures")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on the CPU, default 1")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # read by torch, here and in the processes started

    import aims
    from measure import Options, about

    options, here = Options(chosen.quick, chosen.threads), about()
    results = dict(here)
    for name in [n for n in NAMES if n not in APART] if "all" in chosen.names else chosen.names:
        result = import_module(name).run(options)
        if chosen.save is not None:
            chosen.save.mkdir(parents=True, exist_ok=True)
            text = json.dumps(here | result, indent=2)
            (chosen.save / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
            aims.write(chosen.save)
        if not chosen.json:
            print(f"\n{name}: {NAMES[name]}")
            for key, value in result.items():
                print(f"  {key:<84} {value if isinstance(value, str) else f'{value:,.4g}':>12}")
        results |= {f"{name}/{key}": value for key, value in result.items()}
    if chosen.json:
        print(json.dumps(results | {"load_after": os.getloadavg()[0]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
