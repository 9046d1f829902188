"""The LightningModule that trains a group of members in lockstep."""

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ensemble_transfer.seeding import derive
from ensemble_transfer.training.executors import Loop, Stacked
from ensemble_transfer.training.progress import Curve
from ensemble_transfer.training.recipe import Recipe

CURVE_POINTS = 50


class Lockstep(pl.LightningModule):
    """Trains members together: every step is one step of each, with one optimizer over all.

    What is random in a member's step is drawn from the member's own seed and the step, and AdamW and SGD act on each
    weight alone, so a member's result does not depend on its neighbours.

    Args:
        group: The members.
        recipe: Optimizer, schedule and number of steps.
        seeds: One seed a member.

    Attributes:
        curve: Points (step, loss of each member) along the fit, at most ``CURVE_POINTS`` and the last step.
        spent_before: Wall and processor seconds of the fit before it was interrupted.
    """

    def __init__(self, group: Loop | Stacked, recipe: Recipe, seeds: Sequence[int]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.group = group
        self.recipe = recipe
        self.seeds = list(seeds)
        self.curve: Curve = []
        self.spent_before = (0.0, 0.0)

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> None:
        """Take one optimizer step with inputs (members, batch, ...) and labels (members, batch)."""
        step = self.global_step
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)  # one, with one schedule: configure_optimizers says so
        assert isinstance(scheduler, LambdaLR)
        optimizer.zero_grad()
        losses = self.gradients(batch, step)
        optimizer.step()
        scheduler.step()
        if step % max(1, self.recipe.steps // CURVE_POINTS) == 0 or step == self.recipe.steps - 1:
            self.curve.append((step, losses.float().tolist()))

    def gradients(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Leave every member's gradient of a step, clipped, in its parameters and return the losses (members,)."""
        seeds = [derive(seed, "step", step) for seed in self.seeds]
        losses = self.group.backward(*batch, seeds, self.recipe.label_smoothing)
        if self.recipe.clip is not None:
            self.group.clip(self.recipe.clip)
        return losses

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Return one optimizer over all members and its schedule."""
        recipe = self.recipe
        encoder = [p for name, p in self.group.trained() if not name.startswith("head.")]
        head = [p for name, p in self.group.trained() if name.startswith("head.")]
        groups: list[dict[str, Any]] = [{"params": head, "lr": recipe.lr * recipe.head_lr_factor}]
        if encoder:
            groups.append({"params": encoder, "lr": recipe.lr})
        optimizer: Optimizer
        if recipe.optimizer == "adamw":
            optimizer = AdamW(groups, weight_decay=recipe.weight_decay, foreach=True)
        else:
            nesterov = recipe.momentum > 0
            optimizer = SGD(
                groups,
                momentum=recipe.momentum,
                nesterov=nesterov,
                weight_decay=recipe.weight_decay,
                foreach=True,
            )
        return [optimizer], [LambdaLR(optimizer, recipe.rate)]

    def on_train_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter(), time.process_time()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curve, and the seconds spent so far."""
        now = time.perf_counter(), time.process_time()
        spent = [old + b - a for old, a, b in zip(self.spent_before, self._started, now, strict=True)]
        checkpoint["lockstep"] = {"curve": [[step, losses] for step, losses in self.curve], "spent": spent}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the curve and the seconds where the fit was interrupted."""
        self.curve = [(step, losses) for step, losses in checkpoint["lockstep"]["curve"]]
        self.spent_before = tuple(checkpoint["lockstep"]["spent"])

    def curves(self) -> list[Tensor]:
        """Return every member's curve (points, 2): step and loss."""
        points = [[[float(step), loss] for loss in losses] for step, losses in self.curve]
        return list(torch.tensor(points).reshape(-1, len(self.seeds), 2).transpose(0, 1))
