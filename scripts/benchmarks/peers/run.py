"""Compare with what people would do instead, on photos: the same network, weights and number of photos seen.

    python scripts/data/fetch_data.py signs solar
    python scripts/benchmarks/peers/run.py

What is missing is run, one after another in one thread, seed after seed, and the page and the predictions are written
to benchmarks/peers. The peers get an environment of their own. ``--page`` runs nothing; ``--anew auto`` runs a row
anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from peers_page import write_page
from peers_photos import load, write
from peers_rows import ROWS, Place, Row

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
IMAGES = 2 * 50 * 32
"""Images that a training sees: two fine-tunings of 50 steps at 128 pixels, 32 images each."""


def main() -> int:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["signs", "solar"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[500, 501, 502, 503, 504])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], metavar="ROW", help="only these")
    parser.add_argument("--anew", nargs="+", default=[], choices=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the photos; default %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("multirun/peers"), help="default %(default)s")
    parser.add_argument("--environment", type=Path, default=Path("multirun/peers/environment"))
    parser.add_argument("--save", type=Path, default=ROOT / "benchmarks/peers", help="default %(default)s")
    parser.add_argument("--page", action="store_true", help="run nothing")
    asked = parser.parse_args()
    place = Place(asked.data.resolve(), asked.runs.resolve(), asked.environment.absolute())
    rows = [row for row in ROWS if row.name in (asked.rows or [row.name])]
    for old in [path for name in asked.anew for path in place.runs.glob(f"*-{name}-*.npz")]:
        old.unlink()
    failed = [] if asked.page else [cell for cell in missing(rows, asked, place) if not ran(*cell, place)]
    write_page(place, ROWS, asked.tasks, asked.save)
    for row, task, seed in failed:
        print(f"failed: {row.name} on {task}, seed {seed}; {finished(row, task, seed, place)}.log", file=sys.stderr)
    return 1 if failed else 0


def missing(rows: list[Row], asked: argparse.Namespace, place: Place) -> Iterator[tuple[Row, str, int]]:
    """Yield what has not been run: seed after seed."""
    place.runs.mkdir(parents=True, exist_ok=True)
    install(place.environment)
    for seed, task, row in ((seed, task, row) for seed in asked.seeds for task in asked.tasks for row in rows):
        if not finished(row, task, seed, place).exists():
            yield row, task, seed


def install(environment: Path) -> None:
    """Make the peers' environment, if it is not there."""
    if (environment / "bin/python").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--requirement", HERE / "requirements.txt"], check=True)


def finished(row: Row, task: str, seed: int, place: Place) -> Path:
    """Return the file of a run."""
    return place.runs / f"{task}-{row.name}-{seed}.npz"


def ran(row: Row, task: str, seed: int, place: Place) -> bool:
    """Run a row on a task with a seed; return whether it succeeded."""
    output = finished(row, task, seed, place)
    print(f"{task}, seed {seed}: {row.name}", flush=True)
    ending = [output, "--settings", json.dumps(row.settings), "--seed", str(seed)]
    if row.module == "ours":
        command = [sys.executable, HERE / "ours.py", task, *ending, "--data", place.data]
    else:
        given = photos(task, seed, place)
        command = [place.environment / "bin/python", HERE / "peer.py", row.module, given, *ending]
        command += ["--images", str(IMAGES)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with Path(f"{output}.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=one_thread, check=False)
    return done.returncode == 0


def photos(task: str, seed: int, place: Place) -> Path:
    """Return the file of the photos that peers get, which is made if it is missing."""
    path = place.runs / f"photos-{task}-{seed}.npz"
    if not path.exists():
        write(load(task, place.data, seed), path)
    return path


if __name__ == "__main__":
    sys.exit(main())
