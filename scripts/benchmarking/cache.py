"""Heads trained on cached features against heads trained behind the frozen encoder: the default recipe, same result.

Aim: ten times faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from benchmarking.measure import Options, Result, digits, fitter, interleaved, medians, network, ratios, starts, under
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.models.memory_format import to_device
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.trained_part import loaded
from ensemble_transfer.weights import Weights, below


def run(options: Options) -> Result:
    """Train the heads of one member and of the default ensemble both ways."""
    architecture, data = network(), digits(60 if options.quick else 500)
    recipe = Recipe(3) if options.quick else Recipes().head
    ours = fitter(options, accelerator="cpu")
    ours.fit_heads(architecture, starts(architecture, 1), data, Recipe(2), "warm")
    found: Result = {"steps": recipe.steps}
    for members, repeats in ((1, 1),) if options.quick else ((1, 3), (8, 3)):
        found |= under(
            f"M={members}", compare(ours, starts(architecture, members), architecture, data, recipe, repeats)
        )
    return found


def compare(
    ours: Fitter, begin: Sequence[Start], architecture: Architecture, data: Split, recipe: Recipe, repeats: int
) -> Result:
    """Return the ratios, the seconds, and how far the weights of the heads are apart."""
    results: dict[str, list[Weights]] = {}

    def cached() -> None:
        fits = ours.fit_heads(architecture, begin, data, recipe, "benchmark")
        results["cached"] = [below(weights, "head") for weights in fits.weights]

    def frozen() -> None:
        results["frozen"] = [behind_frozen_encoder(architecture, start, data, recipe) for start in begin]

    times = interleaved({"frozen": frozen, "cached": cached}, repeats)
    pairs = zip(results["cached"], results["frozen"], strict=True)
    apart = max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a)
    found = ratios(times, "frozen", "cached") | medians(times)
    return found | {"largest difference of a weight": apart}


def behind_frozen_encoder(architecture: Architecture, start: Start, data: Split, recipe: Recipe) -> Weights:
    """Train a head as one would without a cache: every batch goes through the encoder."""
    net = to_device(loaded(architecture, start.weights), "cpu")
    optimizer = torch.optim.AdamW(net.head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    batches = Batches([data.images], data.labels, recipe.batch_size, [start.seed])
    for step in range(recipe.steps):
        [images], [labels] = batches[step]
        with torch.no_grad():
            features = net.encode(images)
        optimizer.zero_grad()
        cross_entropy(net.head(features), labels).backward()
        optimizer.step()
        schedule.step()
    return net.head.state_dict()
