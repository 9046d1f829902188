"""Start-up: ``--help`` against ``import torch``; the first training step against the imports that it cannot do without.

Aims: --help in less time than ``import torch``; the first step, with the source ensemble in the store, in less than 1.5
times the imports; the main job with all its fits in the store, evaluation, files and summary included, in less than 2
times. ``python -X importtime`` (benchmarks/fast/startup.md) says what the imports are spent on.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Options, Result, Seconds, medians, ratios

UNAVOIDABLE = "import hydra, torch, timm, pytorch_lightning"
"""Configuration, tensors, encoders, trainer. timm imports torchvision, pytorch_lightning imports torchmetrics."""

TICKS = os.sysconf("SC_CLK_TCK")


def run(options: Options) -> Result:
    """Start processes in turn and time them; they may keep what they have compiled, as everybody's do."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    names = "--help", "import torch", "imports", "first step", "warm run"
    times: dict[str, list[Seconds]] = {name: [] for name in names}
    package = [sys.executable, "-m", "ensemble_transfer"]
    with tempfile.TemporaryDirectory() as folder:
        small = [f"recipe.{name}.steps=2" for name in ("ancestor", "source", "head")]
        common = ["ensemble.size=2", *small[:2], f"store.root={folder}/store", "trainer.progress=false"]
        until_end([*package, "strategy=head", *common, small[2], f"hydra.run.dir={folder}/filling"])
        checkpoints = ["trainer.checkpoint_seconds=1e-9", "seed=0", "recipe.full.steps=100000"]
        step = [*package, "strategy=full", *common, *checkpoints, f"hydra.run.dir={folder}/timed"]
        job = [*package, "strategy=shift", f"store.root={folder}/store", "trainer.progress=false"]
        job += [*common, "recipe.full.steps=2", "recipe.tiny.steps=2"] if options.quick else []
        until_end([*job, f"hydra.run.dir={folder}/cold"])
        for turn in range(1 if options.quick else 5):
            times["warm run"].append(until_end([*job, f"hydra.run.dir={folder}/warm {turn}"]))
            times["--help"].append(until_end([*package, "--help"]))
            times["import torch"].append(until_end([sys.executable, "-c", "import torch"]))
            times["imports"].append(until_end([sys.executable, "-c", UNAVOIDABLE]))
            times["first step"].append(
                until_checkpoint([*step, "store.reuse=true"], Path(folder, "store", "unfinished"))
            )
    found = ratios(times, "--help", "import torch")
    for name in ("first step", "warm run"):
        found |= ratios(times, name, "imports")
    return found | medians(times)


def until_end(command: list[str]) -> Seconds:
    """Return what a process takes until it ends, its children included."""
    started, before = time.perf_counter(), _of_children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Seconds(time.perf_counter() - started, _of_children() - before)


def until_checkpoint(command: list[str], folder: Path) -> Seconds:
    """Return what a process takes until its first checkpoint, written after its first step; end it then."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (written := list(folder.glob("*/last.ckpt"))):
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended without a step")
        time.sleep(0.002)
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    seconds = Seconds(time.perf_counter() - started, (int(fields[11]) + int(fields[12])) / TICKS)
    process.kill()
    process.wait()
    for path in written:
        path.unlink()
    return seconds


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
