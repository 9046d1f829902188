"""Data time on a folder of photographs: decoding once, and then the batches of all steps, with 8 members against 1.

Aim: 1.2 for the whole. Crops of scikit-learn's two photographs stand for a user's images.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarking.measure import Options, Result, interleaved, medians, ratios, under
from ensemble_transfer.tasks.folder import ImageFolder
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import Batches

SIZE = 64


def run(options: Options) -> Result:
    """Time a load and 300 batches of 32 by route and number of members."""
    images, steps, repeats = (24, 5, 1) if options.quick else (1000, 300, 3)
    found: Result = {"images": images, "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photographs"
        write_crops(root, images)
        loads = count()

        def data_time(memory: str, members: int) -> None:
            cache = Path(folder) / "cache" / str(next(loads))  # a cache of its own: every load decodes
            task = ImageFolder(path=str(root), memory=memory, cache=str(cache)).load(SIZE, 3)
            draw(task.train, steps, members)

        for memory in ("ram", "disk"):
            calls = {f"M={members}": partial(data_time, memory, members) for members in (8, 1)}
            times = interleaved(calls, repeats)
            found |= under(memory, ratios(times, "M=8", "M=1") | medians(times))
    return found


def draw(split: Split, steps: int, members: int) -> None:
    """Make the batches of a fit."""
    batches = Batches([split.images] * members, split.labels, 32, list(range(members)))
    for step in range(steps):
        batches[step]


def write_crops(root: Path, images: int) -> None:
    """Write JPEGs of 256 pixels, half of each photograph."""
    generator = torch.Generator().manual_seed(0)
    for place, photograph in enumerate(load_sample_images().images):
        folder = root / f"photograph {place}"
        folder.mkdir(parents=True)
        height, width, _ = photograph.shape
        for index in range(images // 2):
            top, left = (int(torch.randint(side - 256, (1,), generator=generator)) for side in (height, width))
            crop = photograph[top : top + 256, left : left + 256]
            Image.fromarray(crop).save(folder / f"{index:04d}.jpg", quality=90)
