"""The common fit of a group of members in the runner."""

import time
from collections.abc import Iterator, Sequence
from math import inf, isfinite
from typing import Protocol

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.executors import Loop, Vectorised
from ensemble_transfer.training.lockstep import Batch, Lockstep
from ensemble_transfer.training.loggers import LOSS
from ensemble_transfer.training.progress import Tracker
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec
from ensemble_transfer.training.store import Unfinished
from ensemble_transfer.weights import copied, floating

CURVE_POINTS = 50

STRETCH = 0.25
"""Seconds for which steps are taken as one batch of the trainer, which spends half a millisecond around each."""


class NotFiniteError(ArithmeticError):
    """A loss or a weight is not finite.

    Attributes:
        place: Place of the member in its group.
        step: Step of the loss, counted from 0; None for a weight after the last step.
    """

    def __init__(self, place: int, step: int | None) -> None:
        super().__init__(f"member {place} of the group is not finite at step {step}")
        self.place = place
        self.step = step


class Watcher(Protocol):
    """Who is told of a fit: :class:`~ensemble_transfer.training.watch.Watch`."""

    spec: FitSpec
    tracker: Tracker | None
    label: str

    def begin(self, fit: "Course") -> None:
        """Start the clocks."""

    def stepped(self, fit: "Course") -> None:
        """Tell of a step."""


class Course(Lockstep):
    """The common fit of a group in the runner, which can be interrupted at any step.

    Args:
        group: The members, with the weights that they go on from; they are trained in place.
        batches: Their batches, with their streams of randomness.
        recipe: Optimizer, schedule and number of steps.
        settings: Where and how it is computed.
        interrupted: The members' states at a step that they have all reached; empty for fits that start.
        watch: Is told of every step; None for nobody.

    Attributes:
        step: Number of steps taken.
        curve: Points (step, loss of each member) along the fit, at most ``CURVE_POINTS`` and the last step.
        seconds_before: Wall-clock seconds that all members spent before they were interrupted.
        cpu_seconds_before: Processor seconds, likewise.
    """

    step = 0

    def __init__(
        self,
        group: Loop | Vectorised,
        batches: Batches,
        recipe: Recipe,
        settings: TrainerSettings,
        interrupted: Sequence[Unfinished] = (),
        watch: Watcher | None = None,
    ) -> None:
        super().__init__(group, recipe, batches.seeds)
        self._batches = batches.on(settings.device)
        self.settings, self.watch = settings, watch
        self.step = self.start = interrupted[0].step if interrupted else 0
        curves = [state.curve.tolist() for state in interrupted]
        self.curve = [(int(points[0][0]), [loss for _, loss in points]) for points in zip(*curves, strict=True)]
        self._optimizer_states = [state.optimizer for state in interrupted]
        self._unchecked: list[Tensor] = []
        self.seconds_before = sum(state.seconds for state in interrupted)
        self.cpu_seconds_before = sum(state.cpu_seconds for state in interrupted)
        self._started = time.perf_counter(), time.process_time()

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.recipe.steps

    @property
    def is_fused(self) -> bool:
        """A GPU is faster so, and a CPU for weights that are few and small."""
        return self.group.fused_on_cpu or all(parameter.is_cuda for _, parameter in self.group.trained())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return optimizer and schedule, both at the step that the fit starts from."""
        configured = super().configure_optimizers()
        if self._optimizer_states:
            self.group.restore(self.optimizer, self._optimizer_states)
            self._optimizer_states = []
        return configured

    def on_train_start(self) -> None:
        """Start the clocks."""
        super().on_train_start()
        self.begin()

    def begin(self) -> None:
        """Start the clocks."""
        self._started = time.perf_counter(), time.process_time()
        if self.watch is not None:
            self.watch.begin(self)

    def unpacked(self, batch: object) -> Iterator[Batch]:
        """Yield the batches of the next steps, for a while; one where callbacks are to see every step."""
        del batch
        end = -inf if self.settings.callbacks else time.monotonic() + STRETCH
        while not self.is_done:
            yield self._batches[self.step]
            if time.monotonic() > end:
                return

    def stepped(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Check the losses, note them on the curve, and tell of the step.

        Raises:
            NotFiniteError: If a loss is not finite.
        """
        del logits, labels
        self._unchecked.append(losses)
        if self.is_on_curve or losses.device.type == "cpu":  # a GPU is waited for at the points of the curve only
            finite = require_finite(self._unchecked, self.step)
            self._unchecked = []
            if self.is_on_curve:
                self.curve.append((self.step, finite[-1]))
        self.step += 1
        if self.settings.callbacks and self.newest_loss is not None:
            self.log(LOSS, self.newest_loss, logger=False, batch_size=1)
        if self.watch is not None:
            self.watch.stepped(self)

    @property
    def is_on_curve(self) -> bool:
        """Whether the next step is a point of the curve."""
        return self.step % -(-self.recipe.steps // CURVE_POINTS) == 0 or self.step == self.recipe.steps - 1

    @property
    def newest_loss(self) -> float | None:
        """Mean loss of the members at the last point of their curves; None before the first."""
        return sum(self.curve[-1][1]) / len(self.curve[-1][1]) if self.curve else None

    def states(self, sharing: int = 1) -> list[Unfinished]:
        """Return every member's state after the last step; so many processes share the seconds since it went on."""
        weights, optimizers = self.group.state_dicts(), self.group.optimizer_states(self.optimizer)
        seconds = (self.seconds_before + (time.perf_counter() - self._started[0]) / sharing) / len(weights)
        cpu_seconds = (self.cpu_seconds_before + time.process_time() - self._started[1]) / len(weights)
        return [
            Unfinished(copied(own), copied(state), points, self.step, seconds, cpu_seconds)
            for own, state, points in zip(weights, optimizers, self.curves(), strict=True)
        ]

    def curves(self) -> list[Tensor]:
        """Return the curve (points, 2) of each member: step and loss."""
        points = [[[float(step), loss] for loss in losses] for step, losses in self.curve]
        return list(torch.tensor(points).reshape(-1, len(self.seeds), 2).transpose(0, 1))

    def weights(self) -> list[dict[str, Tensor]]:
        """Return every member's weights, on the CPU.

        Raises:
            NotFiniteError: If one is not finite.
        """
        found = [{k: v.detach().cpu().contiguous() for k, v in state.items()} for state in self.group.state_dicts()]
        for place, weights in enumerate(found):
            if not all(bool(torch.isfinite(tensor).all()) for tensor in floating(weights).values()):
                raise NotFiniteError(place, None)
        return found


def require_finite(losses: Sequence[Tensor], last: int) -> list[list[float]]:
    """Return losses (steps, members) of the steps up to the last as numbers, by one copy from a GPU.

    Raises:
        NotFiniteError: If one is not finite; it names the first.
    """
    found: list[list[float]] = torch.stack([*losses]).float().tolist()
    for step, of_members in enumerate(found, last - len(found) + 1):
        for place, loss in enumerate(of_members):
            if not isfinite(loss):
                raise NotFiniteError(place, step)
    return found
