"""Fits: the only way that a member is trained, remembered by content."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ensemble_transfer.backbone import Architecture
from ensemble_transfer.cost import Cost, Entry, measured
from ensemble_transfer.errors import require
from ensemble_transfer.store import Fitted, Store, key_of
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.executors import refuse_dropout
from ensemble_transfer.training.parts import Head, Part, Whole
from ensemble_transfer.training.progress import Tracker
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.run import run_group
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.weights import Weights, copied, fingerprint


@dataclass(frozen=True)
class Start:
    """Where one member's fit starts.

    Attributes:
        member: Index of the member.
        weights: Its initial weights, encoder and head.
        seed: Its stream of randomness.
    """

    member: int
    weights: Weights
    seed: int


@dataclass(frozen=True)
class Fits:
    """The finished fits of a phase, in the order of their starts."""

    phase: str
    members: tuple[int, ...]
    fitted: tuple[Fitted, ...]

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The members' weights."""
        return tuple(fitted.weights for fitted in self.fitted)

    def entries(self) -> list[Entry]:
        """Return what the fits cost, for the ledger."""
        return [
            Entry(self.phase, member, fitted.cost, fitted.key, fitted.reused)
            for member, fitted in zip(self.members, self.fitted, strict=True)
        ]


@dataclass(frozen=True)
class Fitter:
    """Computes fits, or finds them in the store.

    A fit is a function of initial weights, training data, recipe, seed and precision, which make its key. Where it
    is computed, beside which other members and by which executor changes it within float tolerance only.

    Attributes:
        settings: Where and how fits are computed.
        store: Where finished fits are remembered; None for nowhere.
        tracker: Where learning curves are sent.
    """

    settings: TrainerSettings = field(default_factory=TrainerSettings)
    store: Store | None = None
    tracker: Tracker | None = None

    def check(self, architecture: Architecture) -> None:
        """Raise a SettingError if the executor cannot train this architecture."""
        if self.settings.executor == "vectorised":
            refuse_dropout(architecture.build())

    def fit(self, architecture: Architecture, starts: Sequence[Start], data: Split, recipe: Recipe, phase: str) -> Fits:
        """Train encoder and head of every member on the images of a split.

        Args:
            architecture: Of the members.
            starts: Where each member starts.
            data: What the members are trained on.
            recipe: What each fit may spend.
            phase: Name of the phase, for ledger, progress bar and learning curves.
        """
        return self._fits(_Work(Whole(architecture), data, recipe, phase), starts)

    def fit_heads(
        self, architecture: Architecture, starts: Sequence[Start], data: Split, recipe: Recipe, phase: str
    ) -> Fits:
        """Train the head of every member on the features of its frozen encoder; see :meth:`fit`."""
        return self._fits(_Work(Head(architecture), data, recipe, phase), starts)

    def _fits(self, work: "_Work", starts: Sequence[Start]) -> Fits:
        require(len(work.data) > 1, "train", len(work.data), "a fit needs at least 2 examples")
        keys = [work.key(start, self.settings.precision) for start in starts]
        by_key = dict(zip(keys, starts, strict=True))
        found = self._found(keys)
        missing = {key: start for key, start in by_key.items() if key not in found}
        for group in self._groups(missing):
            found |= self._computed(work, group)
        fits = Fits(work.phase, tuple(start.member for start in starts), tuple(found[key] for key in keys))
        self._send_reused_curves(fits)
        return fits

    def _found(self, keys: Iterable[str]) -> dict[str, Fitted]:
        """Return the fits that the store has, by key."""
        if self.store is None:
            return {}
        return {key: fitted for key in keys if (fitted := self.store.get(key)) is not None}

    def _computed(self, work: "_Work", starts: dict[str, Start]) -> dict[str, Fitted]:
        """Compute a group of fits; those that another job finishes meanwhile are taken from the store."""
        if self.store is None:
            return self._run(work, starts, None)
        with self.store.locked(list(starts)):
            found = self._found(starts)
            left = {key: start for key, start in starts.items() if key not in found}
            if left:
                unfinished = self.store.unfinished([self.settings.executor, *left])  # their states differ
                if not self.store.reuse:
                    shutil.rmtree(unfinished, ignore_errors=True)
                for key, fitted in self._run(work, left, unfinished).items():
                    self.store.put(key, fitted, work.about())
                    found[key] = fitted
                shutil.rmtree(unfinished, ignore_errors=True)
        return found

    def _run(self, work: "_Work", starts: dict[str, Start], unfinished: Path | None) -> dict[str, Fitted]:
        part, data, recipe = work.part, work.data, work.recipe
        modules = [part.module(start.weights) for start in starts.values()]
        with measured(self.settings.device) as preparing:
            inputs = [part.inputs(start.weights, data, self.settings.device) for start in starts.values()]
        batches = Batches(inputs, data.labels, recipe.batch_size, [start.seed for start in starts.values()])
        members = [start.member for start in starts.values()]
        result = run_group(modules, batches, recipe, self.settings, work.phase, members, unfinished, self.tracker)
        seen = recipe.steps * batches.batch_size
        cost = Cost(
            steps=recipe.steps,
            examples=seen + part.prepared(len(data)),
            flops=part.flops(seen, len(data)),
            seconds=(preparing.seconds + result.meter.seconds) / len(starts),
            cpu_seconds=(preparing.cpu_seconds + result.meter.cpu_seconds) / len(starts),
            peak_memory_bytes=max(preparing.peak_memory_bytes, result.meter.peak_memory_bytes),
            trained_parameters=sum(p.numel() for p in modules[0].parameters()),
        )
        return {
            key: Fitted(copied(part.weights(start.weights, trained)), curve, cost, key)
            for (key, start), trained, curve in zip(starts.items(), result.weights, result.curves, strict=True)
        }

    def _groups(self, starts: dict[str, Start]) -> Iterator[dict[str, Start]]:
        left = list(starts.items())
        size = self.settings.group_size or len(left) or 1
        for first in range(0, len(left), size):
            yield dict(left[first : first + size])

    def _send_reused_curves(self, fits: Fits) -> None:
        if self.tracker is None:
            return
        for member, fitted in zip(fits.members, fits.fitted, strict=True):
            for step, loss in fitted.curve.tolist() if fitted.reused else []:
                self.tracker.curve(fits.phase, member, int(step), loss)


@dataclass(frozen=True)
class _Work:
    """What the fits of a phase have in common."""

    part: Part
    data: Split
    recipe: Recipe
    phase: str

    def key(self, start: Start, precision: str) -> str:
        return key_of(
            trained=self.part.name,
            architecture=self.part.architecture.plain(),
            initial=fingerprint(start.weights),
            data=self.data.fingerprint,
            recipe=asdict(self.recipe),
            seed=start.seed,
            precision=precision,
        )

    def about(self) -> dict[str, Any]:
        return {"phase": self.phase, "recipe": asdict(self.recipe), "data": self.data.fingerprint}
