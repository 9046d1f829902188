"""Who is told of the steps of a fit: the logger, the store, the progress bar, and a user whose steps are slow."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import cross_entropy

from ensemble_transfer.training.course import CURVE_POINTS, Course
from ensemble_transfer.training.executors import Loop
from ensemble_transfer.training.progress import Report, Tracker
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.store import Store

log = logging.getLogger(__name__)

SLOW = 25
"""A step is far too slow that takes so many times as long as a rough estimate says."""

PATIENCE = 5.0
"""Seconds of a fit after which its steps are looked at."""

POINTS, IMAGES = 10, 256
"""Points of a validation curve beside the last, and images that it is computed on, at the most."""


class Pace:
    """Warns once if the steps of a fit take far longer than the seconds that a step of all members should, roughly."""

    def __init__(self, expected: float) -> None:
        self._expected = expected
        self._steps, self._asked = 0, False

    def stepped(self) -> None:
        """Look at the clock; the first step, which prepares much, does not count."""
        if self._steps == 0:
            self._start = time.monotonic()
        elif not self._asked and (spent := time.monotonic() - self._start) >= PATIENCE:
            self._asked, took = True, spent / self._steps
            if took > SLOW * self._expected:
                text = "a step takes %.2f s, where about %.2f s are expected: other processes want the cores, or torch "
                text += "has too many threads, which wait for each other; trainer.threads=1 may be faster"
                log.warning(text, took, self._expected)
        self._steps += 1


@dataclass
class Watch:
    """Tells others of a group's fit after every step.

    Every point of its curve goes to the run's logger with the learning rate, and some with loss and accuracy of every
    member on validation. The newest state of every member goes to the store, every so many seconds.

    Lightning's own ModelCheckpoint ignores ``train_time_interval`` under manual optimisation (seen in 2.6). It also
    writes the group as one, and unpickles it: a member could not go on in another group, nor be checked before loading.

    Attributes:
        spec: What the members are trained for.
        starts: Where their fits start, by key.
        settings: How often states are stored, and the device.
        store: Where states are kept; None for nowhere.
        tracker: Where curves are sent; None for nowhere.
        report: Receives the progress; None for nobody.
        sharing: Number of processes that share the device and its seconds.
        label: Phase and members in words.
    """

    spec: FitSpec
    starts: Mapping[str, Start]
    settings: TrainerSettings
    store: Store | None = None
    tracker: Tracker | None = None
    report: Report | None = None
    sharing: int = 1

    def __post_init__(self) -> None:
        self.label, self._members = self.spec.label(self.starts), [s.member for s in self.starts.values()]
        expected = len(self.starts) * self.spec.seconds / max(1, self.spec.recipe.steps)
        self._pace = None if self.spec.heads or self.settings.device.type == "cuda" else Pace(expected)
        self._sent = 0

    def __deepcopy__(self, memo: object) -> Self:
        """Return this one: averaging copies a module, and those who are told, such as bars, are no part of it."""
        return self

    def begin(self, fit: Course) -> None:
        """Start the clocks, and report where the fit starts; an interrupted one goes on where it stopped."""
        self._kept = time.monotonic()
        self._tell(fit)

    def stepped(self, fit: Course) -> None:
        """Tell of a step."""
        recipe = self.spec.recipe
        if self.tracker is not None:
            for step, losses in fit.curve[self._sent :]:
                also = self._validated(fit) if step == fit.step - 1 else {}
                also = {"lr": recipe.lr * recipe.rate(step)} | also
                self.tracker.curve(self.spec.phase, step, dict(zip(self._members, losses, strict=True)), also)
            self._sent = len(fit.curve)
        if self.store is not None and time.monotonic() - self._kept >= self.settings.checkpoint_seconds:
            for key, state in zip(self.starts, fit.states(self.sharing), strict=True):
                self.store.put_unfinished(key, state)
            self._kept = time.monotonic()
        if self._pace is not None:
            self._pace.stepped()
        self._tell(fit)

    def _tell(self, fit: Course) -> None:
        if self.report is not None:
            self.report(self.label, fit.step, self.spec.recipe.steps, fit.newest_loss)

    def _validated(self, fit: Course) -> dict[str, float]:
        """Return loss and accuracy of every member on validation now, by their names in the log, where they are due.

        The weights, and what is random in the fit, stay as they are. The time that it takes is none of the fit's.
        """
        steps, split = self.spec.recipe.steps, self.spec.validation
        apart = -(-steps // CURVE_POINTS)
        place, points = (fit.step - 1) // apart, -(-steps // apart)  # on the curve, which this is a point of
        due = place % -(-points // POINTS) == 0 or fit.step == steps
        if split is None or not due or not isinstance(fit.group, Loop):
            return {}
        wall, cpu = time.perf_counter(), time.process_time()
        chosen = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().long()
        device = next(fit.group.parameters()).device
        images, labels = split.images[chosen].to(device), split.labels[chosen].to(device)
        found = {}
        with torch.inference_mode():
            for member, module in zip(self._members, fit.group.members, strict=True):
                module.eval()
                logits, own = module(images).float(), f"member_{member + 1:02d}"
                found[f"validation_loss/{own}"] = float(cross_entropy(logits, labels))
                found[f"validation_accuracy/{own}"] = float((logits.argmax(-1) == labels).double().mean())
                module.train()
        fit.seconds_before -= (time.perf_counter() - wall) / self.sharing
        fit.cpu_seconds_before -= time.process_time() - cpu
        return found
