"""A whole run on many images, classes and members, against a plain torchvision loop; each in a process of its own.

The pictures are made by the script: noise in the colour of its class, 32 pixels, as JPEG, in 1,000 folders. They show
what is read, held and written, not what is learned. A run decodes, trains, predicts, computes all metrics and writes
its files; the loop reads the same folder by torchvision's ``ImageFolder`` and ``DataLoader``, trains the same networks
one after another, predicts the test images and saves the weights. Processes are forked from one that has imported all,
so memory is what is added to the imports.

Aim: a run on 100,000 images within 2 GB, imports included.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import Options, Result, fitter, network, resident, under
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import PILToTensor

from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.runs.run import Origin
from ensemble_transfer.runs.run import run as run_experiment
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.tasks.folder import ImageFolder
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.strategies.full import Full

SIDE, CLASSES, STEPS, BATCH = 32, 1000, 10, 64
HELD_OUT = {"validation": 0.15, "test": 0.2}

Measured = dict[str, float]


def run(options: Options) -> Result:
    """Measure both at two sizes and three ensembles, and one run on many images."""
    sizes, members, many = ((120, 240), (1, 2, 3), 300) if options.quick else ((2000, 8000), (1, 2, 4), 100_000)
    classes = 6 if options.quick else CLASSES
    found: Result = {"classes": classes, "steps of a member": STEPS}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="scale-") as place:
        for size in sizes:
            pictures = draw(Path(place, f"{size} images"), size, classes)
            for count in members:
                ours = apart(whole_run, pictures, Path(place, f"run {size} {count}"), count)
                plain = apart(plain_loop, pictures, Path(place, f"loop {size} {count}"), count)
                found |= under(f"{size} images, M={count}", compared(ours, plain))
        pictures = draw(Path(place, f"{many} images"), many, classes)
        ours = apart(whole_run, pictures, Path(place, "run of many"), 2)
        named = {"MB of decoded images": "images", "MB of predictions.npz": "predictions", "MB of the store": "store"}
        of_many: Result = {"peak MB, imports included": ours["peak"] + ours["imports"]}
        of_many |= {name: ours[key] for name, key in named.items()}
    return found | under(f"{many} images, M=2", of_many)


def compared(ours: Mapping[str, float], plain: Mapping[str, float]) -> Result:
    """Return memory and disk of a run, and its ratios to the loop."""
    disk = ours["images"] + ours["predictions"] + ours["store"] + ours["ensemble"]
    return {
        "ratio to the loop, seconds to the first step": ours["first step"] / plain["first step"],
        "peak MB": ours["peak"],
        "ratio to the loop, peak MB": ours["peak"] / plain["peak"],
        "MB on disk": disk,
        "of these, decoded images": ours["images"],
        "of these, predictions": ours["predictions"],
        "ratio to the loop, MB on disk": disk / plain["disk"],
    }


def draw(folder: Path, count: int, classes: int) -> Path:
    """Write so many JPEGs, in a folder for each class."""
    random = np.random.default_rng(0)
    colours = random.integers(40, 216, (classes, 1, 1, 3))
    for label in range(classes):
        (folder / f"class {label:04}").mkdir(parents=True)
    for place in range(count):
        label = place % classes
        pixels = colours[label] + random.integers(-40, 40, (SIDE, SIDE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class {label:04}" / f"{place:06}.jpg")
    return folder


class FirstStep:
    """A tracker that notes when the first step was taken."""

    def __init__(self) -> None:
        self.began, self.seconds = time.perf_counter(), 0.0

    def curve(self, phase: str, step: int, losses: Mapping[int, float], also: object = None) -> None:
        """Note the time of the first step."""
        del phase, step, losses, also
        self.seconds = self.seconds or time.perf_counter() - self.began


def whole_run(pictures: Path, place: Path, members: int) -> Measured:
    """Run an experiment whose images are mapped from disk; return its seconds, and what it left on the disk in MB."""
    store, first = place / "store", FirstStep()
    (place / "run").mkdir(parents=True)
    experiment = Experiment(
        dataset=Dataset(None, ImageFolder(str(pictures), memory="disk", cache=str(place / "cache")), SIDE, 3),
        backbone=Backbone("resnet10t", dict(network().options)),
        ensemble=EnsembleSettings(members),
        strategy=Full(),
        recipes=Recipes(full=Recipe(STEPS, batch_size=BATCH)),
        evaluation=EvaluationSettings(),
        fitter=replace(fitter(Options(), accelerator="cpu", workers=1), store=Store(store)),
    )
    run_experiment(experiment, place / "run", Origin(tracker=first))
    return {
        "first step": first.seconds,
        "images": megabytes(place / "cache"),
        "predictions": megabytes(place / "run" / "predictions.npz"),
        "ensemble": megabytes(place / "run" / "ensemble"),
        "store": megabytes(store),
    }


def plain_loop(pictures: Path, place: Path, members: int) -> Measured:
    """Train members one after another on a torchvision data set, predict its test images, and save the weights."""
    began, first = time.perf_counter(), 0.0
    place.mkdir()
    images = TorchvisionFolder(str(pictures), PILToTensor())
    shares = [HELD_OUT["test"], (1 - HELD_OUT["test"]) * HELD_OUT["validation"]]
    test, _, train = random_split(images, [*shares, 1 - sum(shares)], torch.Generator().manual_seed(0))
    architecture = network(SIDE, 3, classes=len(images.classes))
    right = torch.zeros(members)
    for member in range(members):
        net = architecture.classifier(architecture.initial(member)).train()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        for step, (pixels, labels) in enumerate(DataLoader(train, BATCH, shuffle=True, drop_last=True), 1):
            optimizer.zero_grad()
            cross_entropy(net(pixels), labels).backward()
            optimizer.step()
            first = first or time.perf_counter() - began
            if step == STEPS:
                break
        net.eval()
        with torch.inference_mode():
            for pixels, labels in DataLoader(test, 256):
                right[member] += (net(pixels).argmax(-1) == labels).sum()
        torch.save(net.state_dict(), place / f"{member}.pt")
    return {"first step": first, "disk": megabytes(place)}


def apart(measure: Callable[[Path, Path, int], Measured], pictures: Path, place: Path, members: int) -> Measured:
    """Return what a measurement finds in a forked process, and its memory: at the start, and what is added, in MB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = resident() / 1e6
            found = measure(pictures, place, members)
            found |= {"imports": before, "peak": resident("VmHWM") / 1e6 - before}
            os.write(writing, json.dumps(found).encode())
        except Exception:  # noqa: BLE001  # whatever it is, the parent shows no more than that it failed
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    result: Measured = json.loads(text)
    return result


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
