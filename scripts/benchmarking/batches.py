"""Batches of eight members by augmentation: on a GPU with its data there, against made on the CPU and sent.

Aim on a GPU: at most half the time. On a CPU, windows of all images by one indexing against a loop over images: the
loop is what crops are made by there.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarking.measure import Options, Result, digits, interleaved, medians, ratios, under
from ensemble_transfer.training.augment import BATCHED, windows
from ensemble_transfer.training.batches import Batches

MEMBERS, STEPS = 8, 100


def run(options: Options) -> Result:
    """Time the batches of a fit by augmentation and image size."""
    steps, repeats = (2, 1) if options.quick else (STEPS, 5)
    found: Result = {}
    for size in (8,) if options.quick else (28, 64):
        data = digits(500, size)
        for augment in sorted(BATCHED) if torch.cuda.is_available() else ():
            here = Batches([data.images] * MEMBERS, data.labels, 32, list(range(MEMBERS)), augment)
            there = here.on(torch.device("cuda"))
            calls = {"there": partial(draw, there, steps), "sent": partial(draw, here, steps)}
            for call in calls.values():
                call()
            times = interleaved(calls, repeats)
            found |= under(f"{augment}, {size} pixels", ratios(times, "there", "sent") | medians(times))
        batch, corners = data.images[:32].repeat(1, 1, 2, 2), torch.randint(size, (32, 2))
        calls = {
            "indexing": partial(repeated, partial(windows, batch, corners, size), steps),
            "loop": partial(repeated, partial(looped, batch, corners, size), steps),
        }
        times = interleaved(calls, repeats)
        found |= under(f"windows on the CPU, {size} pixels", ratios(times, "indexing", "loop") | medians(times))
    return found


def draw(batches: Batches, steps: int) -> None:
    """Make batches and have them on the GPU."""
    for step in range(steps):
        inputs, labels = batches[step]
        inputs.to("cuda"), labels.to("cuda")
    torch.cuda.synchronize()


def repeated(call: partial[torch.Tensor], times: int) -> None:
    """Call so many times."""
    for _ in range(times):
        call()


def looped(images: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Cut a window out of one image after another, as crops are made on a CPU."""
    pairs = zip(images, corners.tolist(), strict=True)
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in pairs])
