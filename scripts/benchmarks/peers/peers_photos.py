"""The photos that everybody gets: tasks as our library loads and splits them, and files of arrays for the peers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ensemble_transfer import Split, Task
from ensemble_transfer.runs.settings import preset_object

PIXELS = 128
"""A side."""


def load(name: str, data: Path, seed: int) -> Task:
    """Return a task of ``conf/task``, whose photos are in a folder of its name, with photos chosen by a seed."""
    return replace(preset_object("task", name), path=str(data / name), seed=seed).load(PIXELS, 3)


def write(task: Task, output: Path) -> None:
    """Write the photos of a task as arrays (N, height, width, 3), but no labels of the test."""

    def images(split: Split) -> np.ndarray:
        return split.images.permute(0, 2, 3, 1).contiguous().numpy()

    np.savez(
        output,
        images=images(task.train),
        labels=task.train.labels.numpy(),
        validation_images=images(task.validation),
        validation_labels=task.validation.labels.numpy(),
        test_images=images(task.test),
        classes=len(task.classes),
    )
