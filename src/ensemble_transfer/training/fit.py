"""Fits: the only way that a member is trained, remembered by content."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.cost import Cost, Entry, measured
from ensemble_transfer.training.executors import chosen_executor, refuse_unvectorisable
from ensemble_transfer.training.lockstep import DivergedError
from ensemble_transfer.training.memory import Need, free_memory, is_out_of_memory, need_of, released
from ensemble_transfer.training.parts import Head, Part, Whole
from ensemble_transfer.training.progress import Tracker, spoken
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.run import Group, run_group
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Fitted, Store, Unfinished, key_of
from ensemble_transfer.weights import Weights, copied, fingerprint, floating

_needs: dict[tuple[str, int], Need] = {}

log = logging.getLogger(__name__)


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
            size = architecture.image_size
            refuse_unvectorisable(
                architecture.build(), torch.zeros(2, architecture.channels, size, size, dtype=torch.uint8)
            )

    def fit(self, architecture: Architecture, starts: Sequence[Start], data: Split, recipe: Recipe, phase: str) -> Fits:
        """Train encoder and head of every member on the images of a split.

        Args:
            architecture: Of the members.
            starts: Where each member starts.
            data: What the members are trained on.
            recipe: What each fit may spend.
            phase: Name of the phase, for ledger, progress bar and learning curves.
        """
        recipe.check_whole()
        return self._fits(_Work(Whole(architecture), data, recipe, phase), starts)

    def fit_heads(
        self, architecture: Architecture, starts: Sequence[Start], data: Split, recipe: Recipe, phase: str
    ) -> Fits:
        """Train the head of every member on the features of its frozen encoder; see :meth:`fit`."""
        recipe.check_head()
        return self._fits(_Work(Head(architecture), data, recipe, phase), starts)

    def _fits(self, work: "_Work", starts: Sequence[Start]) -> Fits:
        require(len(work.data) > 1, "train", len(work.data), "a fit needs at least 2 examples")
        keys = [work.key(start, self.settings.precision) for start in starts]
        by_key = dict(zip(keys, starts, strict=True))
        found = self._found(keys)
        missing = {key: start for key, start in by_key.items() if key not in found}
        if missing:
            self.check(work.part.architecture)
            decided = replace(self, settings=self._decided(work, len(missing)))
            with self.settings.threads_applied():
                found |= decided._computed_in_groups(work, missing)
        fits = Fits(work.phase, tuple(start.member for start in starts), tuple(found[key] for key in keys))
        self._send_reused_curves(fits)
        return fits

    def _decided(self, work: "_Work", members: int) -> TrainerSettings:
        """Return the settings with an executor that trains so many members of this work."""
        executor = chosen_executor(self.settings, members, work.part.flops(work.batch_size, 0))
        settings = replace(self.settings, executor=executor)
        try:
            replace(self, settings=settings).check(work.part.architecture)
        except SettingError as error:  # only of what auto chose: what was asked for has been checked
            log.info("executor=auto: loop (%s)", error)
            settings = replace(settings, executor="loop")
        return settings

    def _found(self, keys: Iterable[str]) -> dict[str, Fitted]:
        """Return the fits that the store has, by key."""
        if self.store is None:
            return {}
        return {key: fitted for key in keys if (fitted := self.store.get(key)) is not None}

    def _computed_in_groups(self, work: "_Work", missing: dict[str, Start]) -> dict[str, Fitted]:
        """Compute fits in groups that fit into memory; groups that do not are halved."""
        found: dict[str, Fitted] = {}
        left = list(missing.items())
        size = self._group_size(work, len(left))
        while left:
            group = dict(left[:size])
            try:
                found |= self._computed(work, group)
                left = left[size:]
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(group) == 1:
                    [start] = group.values()
                    raise _too_large(work.phase, start.member, error) from error
                size = len(group) // 2
            if left and size < len(group):
                log.warning("out of memory with %d members in lockstep; going on with %d", len(group), size)
                released()
        return found

    def _computed(self, work: "_Work", starts: dict[str, Start]) -> dict[str, Fitted]:
        """Compute a group of fits; those that another job finishes meanwhile are taken from the store."""
        if self.store is None:
            return self._run(work, starts, [])
        with self.store.locked(list(starts)):
            found = self._found(starts)
            for group, interrupted in self._at_one_step([key for key in starts if key not in found]):
                for key, fitted in self._run(work, {key: starts[key] for key in group}, interrupted).items():
                    self.store.put(key, fitted, work.about())
                    found[key] = fitted
        return found

    def _at_one_step(self, keys: Sequence[str]) -> Iterator[tuple[list[str], list[Unfinished]]]:
        """Yield groups of fits that start, or that were interrupted at the same step, with their states."""
        assert self.store is not None
        states = {key: self.store.unfinished(key) for key in keys}
        steps = [state.step if state else 0 for state in states.values()]
        for step in sorted(set(steps)):
            group = [key for key, at in zip(keys, steps, strict=True) if at == step]
            if step:
                log.info("going on with an interrupted fit at step %d", step)
            yield group, [state for key in group if (state := states.pop(key)) is not None]

    def _run(self, work: "_Work", starts: dict[str, Start], interrupted: Sequence[Unfinished]) -> dict[str, Fitted]:
        part, data, recipe = work.part, work.data, work.recipe
        modules = [part.module(start.weights) for start in starts.values()]
        with measured(self.settings.device) as preparing:
            initial, seeds = [s.weights for s in starts.values()], [s.seed for s in starts.values()]
            batches = part.batches(initial, data, recipe, seeds, self.settings.device)
        members, keys = [start.member for start in starts.values()], list(starts)
        group = Group(modules, batches, recipe, work.phase, members, keys, interrupted)
        try:
            result = run_group(group, self.settings, self.store, self.tracker)
            _check_finite(result.weights)
        except DivergedError as error:
            if self.store is not None:
                for key in keys:
                    self.store.drop_unfinished(key)
            raise _diverged(group, error) from error
        seen, prepared = recipe.steps * batches.batch_size, part.prepared(len(data), recipe)
        cost = Cost(
            steps=recipe.steps,
            examples=seen + prepared,
            flops=part.flops(seen, prepared),
            seconds=(preparing.seconds + result.meter.seconds) / len(starts),
            cpu_seconds=(preparing.cpu_seconds + result.meter.cpu_seconds) / len(starts),
            peak_memory_bytes=max(preparing.peak_memory_bytes, result.meter.peak_memory_bytes),
            trained_parameters=sum(p.numel() for p in modules[0].parameters()),
        )
        return {
            key: Fitted(copied(part.weights(start.weights, trained)), curve, cost, key)
            for (key, start), trained, curve in zip(starts.items(), result.weights, result.curves, strict=True)
        }

    def _group_size(self, work: "_Work", members: int) -> int:
        """Return how many members to train in lockstep: as asked for, or as many as fit into the free memory."""
        if self.settings.group_size is not None or members < 2:
            return self.settings.group_size or 1
        return work.need().members(free_memory(self.settings.device), vectorised=self.settings.executor == "vectorised")

    def _send_reused_curves(self, fits: Fits) -> None:
        if self.tracker is None:
            return
        points: dict[int, dict[int, float]] = {}
        for member, fitted in zip(fits.members, fits.fitted, strict=True):
            for step, loss in fitted.curve.tolist() if fitted.reused else []:
                points.setdefault(int(step), {})[member] = loss
        for step, losses in sorted(points.items()):
            self.tracker.curve(fits.phase, step, losses)


def _images(architecture: Architecture, examples: int) -> Tensor:
    return torch.zeros(examples, architecture.channels, *[architecture.image_size] * 2, dtype=torch.uint8)


def _too_large(phase: str, member: int, error: BaseException) -> MemoryError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    advice = "lower batch_size of its recipe, or the size of images or backbone"
    return MemoryError(f"out of memory in phase {phase!r} with {spoken([member])} alone ({reason}); {advice}")


def _check_finite(members: Sequence[Weights]) -> None:
    """Raise a DivergedError if a member has a weight that is not finite."""
    for place, weights in enumerate(members):
        if not all(bool(torch.isfinite(tensor).all()) for tensor in floating(weights).values()):
            raise DivergedError(place, None)


def _diverged(group: Group, error: DivergedError) -> SettingError:
    """Return what a user has to know about a fit that diverged: phase, member, step and what to change."""
    recipe, member = group.recipe, spoken([group.members[error.place]])
    if error.step == 0 or recipe.steps == 0:
        rule = f"{member} starts from weights whose loss is not finite; lower what they come from (strategy.scale, ...)"
        return SettingError("phase", group.phase, rule)
    when = f"at step {error.step + 1} of {recipe.steps}" if error.step is not None else "after the last step"
    what = "loss is" if error.step is not None else "weights are"
    advice = "lower lr or head_lr_factor of its recipe, or clip its gradients (clip=1)"
    rule = f"is too high: the {what} not finite in phase {group.phase!r}, {member}, {when}; {advice}"
    return SettingError("lr", recipe.lr, rule)


@dataclass(frozen=True)
class _Work:
    """What the fits of a phase have in common."""

    part: Part
    data: Split
    recipe: Recipe
    phase: str

    @property
    def batch_size(self) -> int:
        """Examples in a step."""
        return min(self.recipe.batch_size, len(self.data))

    def key(self, start: Start, precision: str) -> str:
        return key_of(
            trained=self.part.name,
            architecture=self.part.architecture.plain(),
            initial=fingerprint(start.weights),
            data=self.data.fingerprint,
            recipe=self.recipe.plain(),
            seed=start.seed,
            precision=precision,
        )

    def need(self) -> Need:
        """Return the memory that a member's fit takes."""
        architecture, examples = self.part.architecture, self.batch_size
        kind = (repr(self.part), examples)
        if kind not in _needs:
            with torch.device("meta"):
                member: nn.Module = architecture.build()
                images = _images(architecture, examples)
                features = torch.empty(examples, architecture.features)
            whole = isinstance(self.part, Whole)
            _needs[kind] = need_of(member, images) if whole else need_of(member.get_submodule("head"), features)
        return _needs[kind]

    def about(self) -> dict[str, Any]:
        return {"phase": self.phase, "recipe": self.recipe.plain(), "data": self.data.fingerprint}
