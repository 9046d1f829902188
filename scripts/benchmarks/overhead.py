"""A fit against a hand-written loop of plain PyTorch: same networks, layout, batches, optimizer and weights.

Aims: at most 1.03 times the loop's time with one member, 1.00 with eight. Beside them the public ``EnsembleModule``
under a plain ``pl.Trainer``, on as many steps and members: what a Trainer and its logging cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytorch_lightning as pl
import torch
from measure import Options, Result, digits, fitter, interleaved, medians, network, ratios, same, starts, under
from torch.nn.functional import cross_entropy

from ensemble_transfer.lightning.data_module import TaskDataModule
from ensemble_transfer.lightning.module import EnsembleModule
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import channels_last
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import generator
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.training.fit import Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.trainer import quiet_lightning
from ensemble_transfer.weights import Weights


def run(options: Options) -> Result:
    """Compare one member and eight; "same weights" is 1 where both loops end at the same ones, bit for bit."""
    cases = ((1, 4, 1), (2, 3, 1)) if options.quick else ((1, 300, 5), (8, 100, 3))
    return {key: value for case in cases for key, value in compare(options, *case).items()}


def compare(options: Options, members: int, steps: int, repeats: int) -> Result:
    """Compare members over some steps."""
    architecture, task = network(), digits(500)
    recipe, begin, ours = Recipe(steps, lr=1e-2), starts(architecture, members), fitter(options, accelerator="cpu")
    ended: dict[str, Sequence[Weights]] = {}

    def fit(recipe: Recipe = recipe) -> None:
        ended["fit"] = ours.fit(architecture, begin, task, recipe, "benchmark").weights

    def plain() -> None:
        ended["plain"] = [plain_loop(architecture, start, task.train, recipe) for start in begin]

    fit(Recipe(2))
    module = partial(under_a_trainer, architecture, begin, task, recipe)
    times = interleaved({"fit": fit, "plain": plain, "module": module}, repeats)
    compared = ratios(times, "fit", "plain") | ratios(times, "module", "fit")
    return under(f"M={members}", compared | medians(times) | {"same weights": int(same(ended["fit"], ended["plain"]))})


def under_a_trainer(
    architecture: Architecture, begin: Sequence[Start], task: Task, recipe: Recipe
) -> Sequence[Weights]:
    """Train members as a user of Lightning does, each on its own order of the images."""
    ensemble = Ensemble(architecture, tuple(start.weights for start in begin), task.classes)
    module = EnsembleModule(ensemble, recipe)
    batches = TaskDataModule(task, recipe, members=len(begin))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet_lightning():
        trainer = pl.Trainer(accelerator="cpu", max_epochs=-1, limit_val_batches=0, enable_model_summary=False, **quiet)
        trainer.fit(module, batches)
    return module.ensemble().members


def plain_loop(architecture: Architecture, start: Start, data: Split, recipe: Recipe) -> Weights:
    """Train one member as one would without any framework."""
    net = channels_last(architecture.build())
    net.load_state_dict(dict(start.weights))
    net.train()
    groups = [{"params": net.head.parameters()}, {"params": net.encoder.parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    batches = len(data) // recipe.batch_size
    for step in range(recipe.steps):
        epoch, position = divmod(step, batches)
        if position == 0:
            order = torch.randperm(len(data), generator=generator(start.seed, "order", epoch))
        chosen = order[position * recipe.batch_size : (position + 1) * recipe.batch_size]
        optimizer.zero_grad()
        cross_entropy(net(data.images[chosen]), data.labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return net.state_dict()
