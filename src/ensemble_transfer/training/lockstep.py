"""The step of training: one LightningModule takes it, for the runner, for a Trainer of the user's, and for heads."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ensemble_transfer.errors import require_uninterrupted
from ensemble_transfer.seeding import derive
from ensemble_transfer.training.executors import Differentiate, Loop, Vectorised
from ensemble_transfer.training.optimizer import optimizer_of
from ensemble_transfer.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""Inputs (members, batch, ...) and labels (members, batch)."""


class Lockstep(pl.LightningModule):
    """Trains members together: every step is one step of each, with one optimizer over all.

    Each member draws from its own seed and the step, and AdamW and SGD update each weight by itself. So a member's
    result does not depend on the other members of its group.

    Args:
        group: The members, which are trained in place, and how their gradients are computed.
        recipe: Optimizer, schedule and number of steps.
        seeds: One seed a member for what is random in its forward passes.
        accumulate_grad_batches: Batches whose mean gradient makes a step.
    """

    optimizer: Optimizer
    group: Loop | Vectorised
    start = 0
    """The step that the schedule starts from."""

    def __init__(
        self, group: Loop | Vectorised, recipe: Recipe, seeds: Sequence[int], accumulate_grad_batches: int = 1
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.group, self.recipe, self.seeds = group, recipe, seeds
        self.accumulate_grad_batches = accumulate_grad_batches
        self._summed = 0

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self.global_step

    @abstractmethod
    def unpacked(self, batch: object) -> Iterable[Batch]:
        """Return the batches of members in what the trainer takes for one."""

    @abstractmethod
    def stepped(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take notice of a batch: losses (members,), logits (members, batch, classes), without graphs, and labels."""

    @property
    def differentiate(self) -> Differentiate:
        """What computes the gradient of a loss."""
        return Tensor.backward

    def training_step(self, batch: object, batch_idx: int = 0) -> None:
        """Add batches to every member's gradient, and take a step whenever there are as many as make one."""
        del batch_idx
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for inputs, labels in self.unpacked(batch):
                require_uninterrupted()
                if not self._summed:
                    self.optimizer.zero_grad()
                losses, logits = self.group.backward(inputs, labels, self.streams(), self.differentiate)
                self._summed += 1
                if self._summed == self.accumulate_grad_batches or self.trainer.is_last_batch:
                    self._to_the_mean()
                    self._update()
                    self.schedule.step()
                self.stepped(losses, logits, labels)

    def streams(self) -> list[int]:
        """Return a seed for each member for what is random in its forward pass of the next batch."""
        later = (self._summed,) if self._summed else ()
        return [derive(seed, "step", self.step, *later) for seed in self.seeds]

    def _to_the_mean(self) -> None:
        """Make the gradients those of the batches that were added, where an epoch ends before there are enough."""
        missing, self._summed = self.accumulate_grad_batches / self._summed, 0
        for _, parameter in self.group.trained() if missing > 1 else ():
            if parameter.grad is not None:
                parameter.grad.mul_(missing)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer over all members, which clips the gradient of each, and its schedule in steps."""
        recipe, start, clip = self.recipe, self.start, self.recipe.clip
        self.optimizer = optimizer = optimizer_of(recipe, self.group.trained(), self.is_fused)
        if clip is not None:
            optimizer.register_step_pre_hook(lambda *_: self.group.clip(clip))
        self.schedule = LambdaLR(optimizer, lambda step: recipe.rate(min(start + step, recipe.steps)))
        self._update: Callable[[], object] = optimizer.step
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    @property
    def is_fused(self) -> bool:
        """Whether the optimizer updates a weight by one kernel; it cannot unscale gradients of 16 bits then."""
        return False

    def on_train_start(self) -> None:
        """Update weights by the optimizer's wrapper from now on, by which the trainer counts steps."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)  # one: configure_optimizers says so
        self._update, self._summed = optimizer.step, 0
