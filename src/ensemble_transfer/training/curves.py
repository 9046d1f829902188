"""What a fit sends to the run's logger beside its training losses: learning rate and validation loss."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.executors import Loop
from ensemble_transfer.training.progress import MetricsTracker
from ensemble_transfer.training.recipe import Recipe

if TYPE_CHECKING:
    from ensemble_transfer.training.lockstep import Lockstep

POINTS, IMAGES = 10, 256
"""Points of a validation curve beside the last, and images that it is computed on, at the most."""


class FitCurves:
    """One fit at a run's logger: every point of its curve has the learning rate, and some the validation loss.

    Args:
        tracker: The run at its logger.
        recipe: The fit's recipe.
        validation: What validation losses are computed on; None for no such curve.
    """

    def __init__(self, tracker: MetricsTracker, recipe: Recipe, validation: Split | None) -> None:
        self._tracker, self._recipe, self._validation = tracker, recipe, validation

    @property
    def folder(self) -> Path:
        """Folder in which callbacks may write."""
        return self._tracker.folder

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Pass on what callbacks log."""
        self._tracker.metrics(phase, step, values)

    def curve(
        self, phase: str, step: int, losses: Mapping[int, float], also: Mapping[str, float] | None = None
    ) -> None:
        """Pass on a point with the learning rate of its step."""
        self._tracker.curve(phase, step, losses, {"lr": self._recipe.lr * self._recipe.rate(step)} | dict(also or {}))

    def validated(self, lockstep: "Lockstep", members: Sequence[int]) -> dict[str, float]:
        """Return the validation loss of every member now, by its name in the log; nothing where none is wanted.

        The weights, and what is random in the fit, stay as they are. The time that it takes is none of the fit's.

        Args:
            lockstep: The fit, after the step of a point of its curve.
            members: Indices of its members.
        """
        steps, split = self._recipe.steps, self._validation
        due = lockstep.step % -(-steps // POINTS) == 0 or lockstep.step == steps
        if split is None or not due or not isinstance(lockstep.group, Loop):
            return {}
        wall, cpu = time.perf_counter(), time.process_time()
        chosen = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().long()
        images, labels = split.images[chosen].to(lockstep.device), split.labels[chosen].to(lockstep.device)
        found = {}
        with torch.inference_mode():
            for member, module in zip(members, lockstep.group.members, strict=True):
                module.eval()
                found[f"validation_loss/member_{member + 1:02d}"] = float(cross_entropy(module(images).float(), labels))
                module.train()
        lockstep.seconds_before -= time.perf_counter() - wall
        lockstep.cpu_seconds_before -= time.process_time() - cpu
        return found
