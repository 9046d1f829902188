"""What the parts of a shift cost beside the donor's full fine-tuning: search, statistics, probe, tiny fine-tuning.

Aim: search, and statistics, at most 5%.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarking.measure import SMALL, Options, Result, fitter
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.embedded import Digits, MnistSample
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.source import EnsembleSettings, train_source
from ensemble_transfer.transfer.base import transfer_ensemble
from ensemble_transfer.transfer.strategies.shift import Shift


def run(options: Options) -> Result:
    """Transfer three members of the default net, digits to MNIST, with a search."""
    size = 60 if options.quick else 500
    source_task = Digits(validation=200, test=300).load(28, 1)
    target = MnistSample(train=size, validation=500, test=1000).load(28, 1)
    recipes = Recipes(ancestor=Recipe(20), source=Recipe(5))
    if options.quick:
        recipes = replace(recipes, full=Recipe(5), tiny=Recipe(2), probe=Recipe(5))
    ours = fitter(options, accelerator="cpu")
    source, _ = train_source(EnsembleSettings(3), Backbone("resnet10t", SMALL), source_task, 0, recipes, ours)
    found: Result = {"members": 3, "target images": size}
    result = transfer_ensemble(Shift(if_better=True), source, target.sealed(), 0, recipes, ours)
    phases, recipients = result.ledger.by_phase(), len(result.recipients)
    donor = phases["full"]
    found |= shares("probe search", phases["scale search"], donor, 1)
    for phase in ("statistics", "probe", "tiny"):
        found |= shares(f"{phase}, a recipient", phases[phase], donor, recipients)
    return found


def shares(name: str, part: Cost, donor: Cost, recipients: int) -> Result:
    """Return operations and processor seconds as shares of the donor's fine-tuning."""
    return {
        f"{name}: FLOPs ratio to the donor": part.flops / recipients / donor.flops,
        f"{name}: CPU ratio to the donor": part.cpu_seconds / recipients / donor.cpu_seconds,
    }
