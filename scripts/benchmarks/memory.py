"""Peak memory: of a fit beyond the imports, by members and executor, and of whole runs on photos, each in its process.

Aims: 32 members of the default network in less than 2 GB; README's command for photos, imports included, in less than 2
GB with 2,000 photos at 128 and at 224 pixels. It needs the extra imagenet. Its fits have 4 steps here, which take as
much memory as 200.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Options, Result, digits, fitter, network, photos, resident, starts, under

from ensemble_transfer.training.cost import measured
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec


def run(options: Options) -> Result:
    """Measure fits, and runs on photos."""
    return _fits(options) | _runs(options)


def _runs(options: Options) -> Result:
    """Run README's command for photos, with few steps, at two sizes."""
    found: Result = {}
    for size in (32,) if options.quick else (128, 224):
        with tempfile.TemporaryDirectory() as folder:
            photos(Path(folder, "photos"), 60 if options.quick else 2000, classes=10)
            command = [sys.executable, "-m", "ensemble_transfer", "strategy=few", "budget=2", "dataset=target"]
            command += [f"dataset.target.path={folder}/photos", "backbone=efficientnet_lite0", "recipe=pretrained"]
            command += [f"dataset.image_size={size}", "recipe.image_size=null"]  # where a fine-tuning is counted
            command += ["recipe.full.steps=4", "trainer.progress=false"]
            command += [f"hydra.run.dir={folder}/run", f"store.root={folder}/store"]
            found[f"photos of {size} pixels/peak MB, imports included"] = _peak(command) / 1e6
    return found


def _peak(command: list[str]) -> int:
    """Return the most bytes that a process had in memory, by the system's account; it must end well."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with exit code {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _fits(options: Options) -> Result:
    """Measure members in groups, and compare with the estimate that sizes groups."""
    members = (1, 2) if options.quick else (1, 8, 32)
    found: Result = {}
    for executor in ("loop", "vectorised"):
        one: dict[str, float] = {}
        for count in members:
            command = [sys.executable, __file__, executor, str(count), str(options.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            found |= under(f"M={count}, {executor}", {"peak MB": result["peak"], "estimated MB": result["estimate"]})
            one = one or result
        added = (result["peak"] - one["peak"]) / (count - 1)
        found |= under(executor, {"MB a further member": added})
    return found


def child(executor: str, members: int, threads: int) -> dict[str, float]:
    """Fit members and return the growth of memory, and what was estimated, in MB."""
    architecture, task = network(), digits(500)
    ours = fitter(Options(threads=threads), executor=executor, group_size=members)
    device = ours.settings.device
    ours.fit(network(8), starts(network(8), 1), digits(50, 8), Recipe(1), "warm")  # what torch loads at the first step
    before = 0 if device.type == "cuda" else resident()
    with measured(device) as meter:
        ours.fit(architecture, starts(architecture, members), task, Recipe(3), "benchmark")
    held, graph = FitSpec(architecture, task.train, Recipe(3), "").need()
    estimate = members * held + graph * (members if executor == "vectorised" else 1)
    return {"peak": (meter.peak_memory_bytes - before) / 1e6, "estimate": estimate / 1e6}


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
