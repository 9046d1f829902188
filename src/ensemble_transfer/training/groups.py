"""Fits in this process: members in groups that fit into memory, each group in lockstep."""

import gc
import logging
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Self

import torch

from ensemble_transfer.errors import DivergedError, SettingError
from ensemble_transfer.machine import free_memory
from ensemble_transfer.training.cost import Cost, Meter, measured
from ensemble_transfer.training.course import Course, NotFiniteError
from ensemble_transfer.training.executors import grouped
from ensemble_transfer.training.heads import ALONE, Heads
from ensemble_transfer.training.progress import Report, Tracker
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, Start, member_names
from ensemble_transfer.training.store import Fitted, Store, Unfinished
from ensemble_transfer.training.trainer import trainer_of
from ensemble_transfer.training.watch import Watch
from ensemble_transfer.weights import copied

LARGEST_GROUP = 256
"""Members of a group, at most, where nobody says how many: each holds an open file, its lock."""

log = logging.getLogger(__name__)

_SIGNS = re.compile(
    "(can't|Cannot) allocate memory|could not create a primitive|bad_alloc|CUDA error: out of memory"
    "|_ALLOC_FAILED|ALLOCATION_FAILED"  # the first of cuBLAS, cuSOLVER, cuFFT and cuDNN 8, the other of cuDNN 9
)
"""In the messages of errors of torch, the system, oneDNN and CUDA's libraries that mean a lack of memory.

Only torch's own allocator raises ``torch.OutOfMemoryError``. The libraries allocate for themselves, and so does the
driver, when it loads a kernel.
"""


@dataclass(frozen=True)
class GroupFitter:
    """Computes fits in this process.

    Attributes:
        settings: How fits are computed, with the executor decided.
        store: Where finished and interrupted fits are kept; None for nowhere.
        tracker: Where learning curves are sent.
        report: Receives the progress; None for nobody.
        sharing: Number of processes that compute fits of the phase at the same time on the same device, this one
            included. They share its free memory and its seconds.
    """

    settings: TrainerSettings
    store: Store | None = None
    tracker: Tracker | None = None
    report: Report | None = None
    sharing: int = 1

    def compute(self, spec: FitSpec, missing: dict[str, Start]) -> dict[str, Fitted]:
        """Return fits by key, computed in groups that fit into memory; a group that does not is halved.

        Fits that another job finishes meanwhile are taken from the store.

        Raises:
            DivergedError: If a fit diverges.
            MemoryError: If a single member does not fit into memory.
        """
        found: dict[str, Fitted] = {}
        left = list(missing.items())
        size = self._group_size(spec, len(left))
        while left:
            group = dict(left[:size])
            teller = self._telling(spec, missing, len(found), len(group))
            try:
                with self._held(group) as finished:
                    found |= finished
                    for starts, interrupted in self._at_one_step(group, finished):
                        found |= teller.train(spec, starts, interrupted)
                left = left[size:]
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(group) == 1:
                    [start] = group.values()
                    raise _too_large(spec.phase, start.member, error) from error
                size = len(group) // 2
            if left and size < len(group):
                log.warning("out of memory with %d members in lockstep; going on with %d", len(group), size)
                released()
        return found

    def train(
        self, spec: FitSpec, starts: Mapping[str, Start], interrupted: Sequence[Unfinished] = ()
    ) -> dict[str, Fitted]:
        """Train a group of members in lockstep; return their fits by key, and store them.

        Raises:
            DivergedError: If a fit diverges.
        """
        with self._naming(spec, starts), measured(self.settings.device) as meter:
            course, encoded = self._course(spec, starts, interrupted)
            if spec.heads:  # a Trainer takes about as long to start as a head to train
                course.configure_optimizers()
                course.begin()
                while not course.is_done:
                    course.training_step(None)
            elif not course.is_done:
                with trainer_of(course) as trainer:
                    trainer.fit(course, count())  # an endless loader: the fit has no epochs to come back to
            weights = course.weights()
        fits = zip(starts.items(), weights, course.curves(), self._costs(spec, course, encoded, meter), strict=True)
        found = {
            key: Fitted(copied(spec.weights(start.weights, trained)), curve, cost, key)
            for (key, start), trained, curve, cost in fits
        }
        if self.store is not None:
            origin = {"phase": spec.phase, "recipe": asdict(spec.recipe), "data": spec.data.fingerprint}
            for key, fitted in found.items():
                self.store.put(key, fitted, origin)
        return found

    def _telling(self, spec: FitSpec, all_fits: dict[str, Start], done: int, now: int) -> Self:
        """Return this fitter with a report that shows the heads of all groups as one bar."""
        report, fits = self.report, len(all_fits)
        if report is None or not spec.heads:
            return self
        name = spec.label(all_fits)

        def tell(_: str, step: int, steps: int, loss: float | None) -> None:
            report(name, done * steps + now * step, fits * steps, loss)

        return replace(self, report=tell)

    @contextmanager
    def _held(self, keys: Iterable[str]) -> Iterator[dict[str, Fitted]]:
        """Hold fits in the store, and yield those that are finished by now."""
        if self.store is None:
            yield {}
            return
        with self.store.locked([*keys]):
            yield {key: fitted for key in keys if (fitted := self.store.get(key)) is not None}

    def _at_one_step(
        self, group: Mapping[str, Start], finished: Container[str]
    ) -> Iterator[tuple[dict[str, Start], list[Unfinished]]]:
        """Yield groups of fits that start, or that were interrupted at the same step, with their states."""
        left = [key for key in group if key not in finished]
        states = {key: self.store.unfinished(key) if self.store else None for key in left}
        at: dict[int, list[str]] = {}
        for key, state in states.items():
            at.setdefault(state.step if state else 0, []).append(key)
        for step, keys in sorted(at.items()):
            if step:
                log.info("going on with an interrupted fit at step %d", step)
            interrupted = [state for key in keys if (state := states.pop(key)) is not None]
            yield {key: group[key] for key in keys}, interrupted

    def _course(
        self, spec: FitSpec, starts: Mapping[str, Start], interrupted: Sequence[Unfinished]
    ) -> tuple[Course, list[int]]:
        """Return members' common fit at the step from which it goes on, and the examples encoded for each."""
        settings, recipe = self.settings, spec.recipe
        if spec.heads:  # which callbacks do not see
            settings = replace(settings, callbacks=[])
        watch = Watch(spec, starts, settings, self.store, self.tracker, self.report, self.sharing)
        modules = [spec.module(start.weights) for start in starts.values()]
        for module, state in zip(modules, interrupted, strict=False):
            module.load_state_dict(dict(state.weights), strict=True)
        group = grouped(modules, settings, spec.loss, spec.parts)
        if spec.heads:
            group = Heads(modules, spec.loss).to(settings.device)
        batches, encoded = spec.batches([*starts.values()], settings.device, free_memory() // self.sharing)
        return Course(group, batches, recipe, settings, interrupted, watch), encoded

    @contextmanager
    def _naming(self, spec: FitSpec, starts: Mapping[str, Start]) -> Iterator[None]:
        """Say of a fit in the block that is not finite which it is, and forget how far it had come."""
        try:
            yield
        except NotFiniteError as error:
            if self.store is not None:
                for key in starts:
                    self.store.drop_unfinished(key)
            raise _diverged(spec, [*starts.values()][error.place].member, error.step) from error

    def _costs(self, spec: FitSpec, course: Course, encoded: Sequence[int], meter: Meter) -> list[Cost]:
        """Return the cost of each member, of which so many examples were encoded for each."""
        members, seen = len(encoded), course.step * spec.batch_size
        spent = Cost(
            steps=course.step,
            seconds=(course.seconds_before + meter.seconds / self.sharing) / members,
            cpu_seconds=(course.cpu_seconds_before + meter.cpu_seconds) / members,
            peak_memory_bytes=meter.peak_memory_bytes,
            trained_parameters=sum(p.numel() for _, p in course.group.trained()) // members,
        )
        return [replace(spent, examples=seen + own, flops=spec.flops(seen, own)) for own in encoded]

    def _group_size(self, spec: FitSpec, members: int) -> int:
        """Return how many members to train in lockstep: as asked for, or as many as fit into the free memory.

        Heads are trained one after another where they are to be the same beside any others.
        """
        if spec.heads and self.settings.device.type in ALONE:
            return 1
        if self.settings.group_size is not None or members < 2:
            return self.settings.group_size or 1
        free = free_memory(self.settings.device) // self.sharing
        return min(LARGEST_GROUP, spec.members_that_fit(free, vectorised=self.settings.executor == "vectorised"))


def _too_large(phase: str, member: int, error: BaseException) -> MemoryError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    advice = "lower batch_size of its recipe, or the size of images or backbone"
    return MemoryError(f"out of memory in phase {phase!r} with {member_names([member])} alone ({reason}); {advice}")


def _diverged(spec: FitSpec, member: int, step: int | None) -> SettingError:
    """Return what a user has to know about a fit that diverged: phase, member, step and what to change."""
    recipe, name = spec.recipe, member_names([member])
    if step == 0 or recipe.steps == 0:
        rule = f"{name} starts from weights whose loss is not finite; lower what they come from (strategy.scale, ...)"
        return SettingError("phase", spec.phase, rule)
    when = f"at step {step + 1} of {recipe.steps}" if step is not None else "after the last step"
    what = "loss is" if step is not None else "weights are"
    advice = "lower lr or head_lr_factor of its recipe, or clip its gradients (clip=1)"
    rule = f"is too high: the {what} not finite in phase {spec.phase!r}, {name}, {when}; {advice}"
    return DivergedError("lr", recipe.lr, rule)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a computation failed for lack of memory."""
    by_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    by_message = isinstance(error, RuntimeError | OSError) and _SIGNS.search(str(error)) is not None
    return by_type or by_message


def released() -> None:
    """Free the memory of dropped tensors, on a GPU also for other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
