"""What the benchmarks share: timing, the default network and data, and how results are shown and kept."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.runs import environment
from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.weights import Weights

Result = dict[str, float | str]


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    quick: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Seconds:
    """What one call took."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Seconds:
    """Return what a call takes; on a GPU until it has finished there."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Time calls in turn, so that whatever else the machine does falls on all of them."""
    times: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call))
    return times


def ratios(times: Mapping[str, list[Seconds]], of: str, to: str) -> Result:
    """Return the medians of ratios over the repetitions, in CPU and in wall seconds."""
    pairs = list(zip(times[of], times[to], strict=True))
    return {
        f"ratio {of} to {to}, CPU": statistics.median(a.cpu / b.cpu for a, b in pairs),
        f"ratio {of} to {to}, wall": statistics.median(a.wall / b.wall for a, b in pairs),
    }


def medians(times: Mapping[str, list[Seconds]]) -> Result:
    """Return the medians of the seconds."""
    found: Result = {}
    for name, seconds in times.items():
        found[f"{name}, CPU s"] = statistics.median(s.cpu for s in seconds)
        found[f"{name}, wall s"] = statistics.median(s.wall for s in seconds)
    return found


def under(prefix: str, result: Result) -> Result:
    """Return a result with keys below a prefix."""
    return {f"{prefix}/{key}": value for key, value in result.items()}


def network(size: int = 28, channels: int = 1, width: int = 1, classes: int = 10) -> Architecture:
    """Return the default network, or one that is so many times as wide."""
    options = {"channels": [width * c for c in (8, 16, 32, 64)], "stem_width": 8 * width, "output_stride": 8}
    return Backbone("resnet10t", options).architecture(size, channels, classes)


def digits(examples: int, size: int = 28) -> Task:
    """Return a task of real digits; beyond 2,000 to train on they repeat, which arithmetic does not notice."""
    task = MnistSample(train=min(examples, 2000)).load(size, 1)
    data = task.train
    times = -(-examples // len(data))
    repeated = Split(data.images.repeat(times, 1, 1, 1)[:examples], data.labels.repeat(times)[:examples])
    return replace(task, train=repeated)


def photos(folder: Path, count: int, classes: int = 1) -> list[Path]:
    """Write pieces of scikit-learn's two photos as JPEGs of 500 by 375 pixels, in a folder for each class."""
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    paths = [folder / str(place % classes) / f"{place:05}.jpg" for place in range(count)]
    for place, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = 13 * place % 140, 7 * place % 52
        whole[place % 2].crop((left, top, left + 500, top + 375)).save(path, quality=90)
    return paths


def starts(architecture: Architecture, members: int) -> list[Start]:
    """Return where members start: each at random."""
    return [Start(member, architecture.initial(member), seed=member) for member in range(members)]


def fitter(options: Options, **changes: object) -> Fitter:
    """Return a fitter that remembers nothing, with torch's threads set."""
    torch.set_num_threads(options.threads)
    return Fitter(TrainerSettings(threads=options.threads, progress=False, **changes))  # type: ignore[arg-type]


def same(one: Sequence[Weights], other: Sequence[Weights]) -> bool:
    """Return whether members have the same weights, bit for bit."""
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def resident(kind: str = "VmRSS") -> int:
    """Return the process's resident memory in bytes, now or at its peak (``VmHWM``; Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def about() -> Result:
    """Return date, machine, versions and load."""
    found = environment.describe(TrainerSettings())
    return {
        **{key: str(found[key]) for key in ("created", "processor", "device", "platform", "git_commit")},
        "cores": os.cpu_count() or 0,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "load of the last minute": round(os.getloadavg()[0], 2),
        **{f"{name} version": str(number) for name, number in found["versions"].items()},
    }
