"""The LightningModule that trains a group of members in lockstep."""

import time
from collections.abc import Sequence
from math import isfinite

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ensemble_transfer.errors import require_uninterrupted
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.executors import Loop, Vectorised
from ensemble_transfer.training.progress import Curve
from ensemble_transfer.training.recipe import Recipe, optimizer_of
from ensemble_transfer.training.store import Unfinished
from ensemble_transfer.weights import copied

CURVE_POINTS = 50


class DivergedError(ArithmeticError):
    """A loss or a weight is not finite.

    Attributes:
        place: Place of the member in its group.
        step: Step of the loss, counted from 0; None for a weight after the last step.
    """

    def __init__(self, place: int, step: int | None) -> None:
        super().__init__(f"member {place} of the group is not finite at step {step}")
        self.place = place
        self.step = step


class Lockstep(pl.LightningModule):
    """Trains members together: every step is one step of each, with one optimizer over all.

    Each member draws from its own seed and the step, and AdamW and SGD update each weight by itself. So a member's
    result does not depend on the other members of its group.

    Args:
        group: The members.
        recipe: Optimizer, schedule and number of steps.
        batches: The members' batches, with their streams of randomness.
        interrupted: The members' states at a step that they have all reached; empty for fits that start.

    Attributes:
        step: Number of steps taken.
        curve: Points (step, loss of each member) along the fit, at most ``CURVE_POINTS`` and the last step.
        seconds_before: Wall-clock seconds that all members spent before they were interrupted.
        cpu_seconds_before: Processor seconds, likewise.
    """

    def __init__(
        self, group: Loop | Vectorised, recipe: Recipe, batches: Batches, interrupted: Sequence[Unfinished] = ()
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.group = group
        self.recipe = recipe
        self._batches = batches
        self.step = interrupted[0].step if interrupted else 0
        self.curve: Curve = joined([state.curve for state in interrupted])
        self.seconds_before = sum(state.seconds for state in interrupted)
        self.cpu_seconds_before = sum(state.cpu_seconds for state in interrupted)
        self._unchecked: list[Tensor] = []
        self._optimizer_states = [state.optimizer for state in interrupted]

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> None:
        """Take one optimizer step with inputs (members, batch, ...) and labels (members, batch).

        Raises:
            DivergedError: If a loss is not finite.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)  # one, with one schedule: configure_optimizers says so
        assert isinstance(scheduler, LambdaLR)
        require_uninterrupted()
        optimizer.zero_grad()
        losses = self.gradients(batch, self.step)
        optimizer.step()
        scheduler.step()
        self._unchecked.append(losses)
        on_curve = is_on_curve(self.step, self.recipe.steps)
        if on_curve or losses.device.type == "cpu":  # a GPU is waited for at the points of the curve only
            finite = require_finite(self._unchecked, self.step)
            self._unchecked = []
            if on_curve:
                self.curve.append((self.step, finite[-1]))
        self.step += 1

    def gradients(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Leave every member's gradient of a step, clipped, in its parameters and return the losses (members,)."""
        losses = self.group.backward(*batch, self._batches.step_seeds(step), self.recipe.label_smoothing)
        if self.recipe.clip is not None:
            self.group.clip(self.recipe.clip)
        return losses

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer over all members and its schedule, both at the step that the fit starts from."""
        recipe, start = self.recipe, self.step
        trained = [*self.group.trained()]
        optimizer = optimizer_of(recipe, trained, fused=all(parameter.is_cuda for _, parameter in trained))
        if self._optimizer_states:
            self.group.restore(optimizer, self._optimizer_states)
            self._optimizer_states = []
        schedule = LambdaLR(optimizer, lambda step: recipe.rate(start + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}  # for monitors

    def on_train_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter(), time.process_time()

    def states(self) -> list[Unfinished]:
        """Return every member's state after the last step."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        spent = (
            self.seconds_before + time.perf_counter() - self._started[0],
            self.cpu_seconds_before + time.process_time() - self._started[1],
        )
        return states_of(self.group, optimizer.optimizer, self.curve, self.step, spent)

    def curves(self) -> list[Tensor]:
        """Return every member's curve (points, 2): step and loss."""
        return split_curve(self.curve, len(self._batches.seeds))


def is_on_curve(step: int, steps: int) -> bool:
    """Return whether a step is a point of a fit's curve."""
    return step % -(-steps // CURVE_POINTS) == 0 or step == steps - 1


def require_finite(losses: Sequence[Tensor], last: int) -> list[list[float]]:
    """Return losses (steps, members) of the steps up to the last as numbers, by one copy from a GPU.

    Raises:
        DivergedError: If one is not finite; it names the first.
    """
    found: list[list[float]] = torch.stack([*losses]).float().tolist()
    for step, of_members in enumerate(found, last - len(found) + 1):
        for place, loss in enumerate(of_members):
            if not isfinite(loss):
                raise DivergedError(place, step)
    return found


def states_of(
    group: Loop | Vectorised, optimizer: Optimizer, curve: Curve, step: int, spent: tuple[float, float]
) -> list[Unfinished]:
    """Return every member's state after so many steps.

    Args:
        group: The members.
        optimizer: Their optimizer.
        curve: Their common curve.
        step: Steps taken.
        spent: Wall-clock and processor seconds that the group has spent.
    """
    weights, optimizers = group.state_dicts(), group.optimizer_states(optimizer)
    seconds, cpu_seconds = (total / len(weights) for total in spent)
    return [
        Unfinished(copied(own), copied(state), points, step, seconds, cpu_seconds)
        for own, state, points in zip(weights, optimizers, split_curve(curve, len(weights)), strict=True)
    ]


def split_curve(curve: Curve, members: int) -> list[Tensor]:
    """Return the curve (points, 2) of each of so many members, step and loss, of their common curve."""
    points = [[[float(step), loss] for loss in losses] for step, losses in curve]
    return list(torch.tensor(points).reshape(-1, members, 2).transpose(0, 1))


def joined(curves: Sequence[Tensor]) -> Curve:
    """Return the common curve of members that have each their own (points, 2)."""
    return [
        (int(points[0][0]), [loss for _, loss in points]) for points in zip(*map(Tensor.tolist, curves), strict=True)
    ]
