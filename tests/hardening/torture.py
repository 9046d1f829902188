"""Torture the package: stop commands, damage files, mistype settings; print what was tried and what failed.

    python tests/hardening/torture.py --kills 50 --flips 200 --inputs 300

Everything happens in a fresh folder with small settings, and a seed repeats it. A stopped command must end as its
signal says, leave no process and no temporary file, and go on to the same result. A damaged file must be refused or
computed again, or change nothing. A bad input must be one line, or the job must finish. A finished sweep has every
metric, wrote its files whole, and pairs runs of equal seeds. The exit code is 1 if anything failed.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from damage import flip, prepare, readers
from inputs import inputs, mistype
from kills import RUN, Kills
from results import checked
from world import run


def tortured(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[str, list[str | None]]]:
    """Try everything in a fresh folder; yield what was done, and what was wrong each time, as it is done."""
    whole, kills, flips = folder / "whole", range(options.kills), range(options.flips)
    whole.mkdir()
    started = time.monotonic()
    if kills or flips:  # only what is killed must be a process of its own
        wrong = run(RUN, whole) if kills else mistype("hydra.run.dir", "run", whole)
        if wrong is not None:
            raise RuntimeError(f"the job fails by itself: {wrong}")
    if kills:
        killer = Kills(folder, whole, time.monotonic() - started, rng)
        yield "kills", [killer.kill() for _ in kills]
    if flips:
        prepare(whole)
    for name, (pattern, read) in readers().items() if flips else ():
        yield f"damaged {name}", [flip(whole, pattern, read, rng) for _ in flips]
    if options.results:
        (folder / "results").mkdir()
        yield "promises of a finished sweep", checked(folder / "results")
    if options.inputs:
        given = inputs(options.inputs, rng)
        yield "bad inputs", [mistype(setting, value, folder / "inputs", must) for setting, value, must in given]


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="commands that are stopped (8: each once)")
    parser.add_argument("--flips", type=int, default=20, metavar="M", help="damages of each kind of file (20)")
    parser.add_argument("--inputs", type=int, default=30, metavar="K", help="bad inputs (30)")
    parser.add_argument("--results", action=argparse.BooleanOptionalAction, default=True, help="look at a whole sweep")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    options = parser.parse_args()
    rng, failures = random.Random(options.seed), []
    print(f"{'tried':<36} {'times':>6} {'failed':>6}")
    logging.getLogger("ensemble_transfer").setLevel(logging.ERROR)  # damaged files are what we make
    with tempfile.TemporaryDirectory() as folder:
        for name, found in tortured(Path(folder), options, rng):
            wrong = [f"{name}: {failure}" for failure in found if failure is not None]
            print(f"{name:<36} {len(found):>6} {len(wrong):>6}", flush=True)
            failures += wrong
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
