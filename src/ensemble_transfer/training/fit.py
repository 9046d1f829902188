"""Fits: the only way to train a member; finished ones are cached in the store."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Entry
from ensemble_transfer.training.executors import chosen_executor, refuse_unvectorisable
from ensemble_transfer.training.groups import GroupFitter
from ensemble_transfer.training.progress import Bars, Tracker
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import FitSpec, member_names
from ensemble_transfer.training.spec import Start as Start
from ensemble_transfer.training.store import Fitted, Store
from ensemble_transfer.training.workers import compute_beside, number_of_workers, start_ahead
from ensemble_transfer.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fits:
    """The finished fits of a phase, in the order of their starts, and what each might spend, where it is one recipe."""

    phase: str
    members: tuple[int, ...]
    fitted: tuple[Fitted, ...]
    recipe: Recipe | None = None

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The members' weights."""
        return tuple(fitted.weights for fitted in self.fitted)

    def entries(self) -> list[Entry]:
        """Return what the fits cost, for the ledger."""
        return [
            Entry(self.phase, member, fitted.cost, fitted.key, fitted.reused, self._curve(fitted))
            for member, fitted in zip(self.members, self.fitted, strict=True)
        ]

    def _curve(self, fitted: Fitted) -> tuple[tuple[float, float, float], ...]:
        """Return step, training loss and learning rate at the points of a fit's curve."""
        recipe = self.recipe
        if recipe is None:
            return ()
        return tuple((step, loss, recipe.lr * recipe.rate(int(step))) for step, loss in fitted.curve.tolist())


@dataclass(frozen=True)
class Fitter:
    """Computes fits, or finds them in the store.

    A fit is a function of initial weights, training data, recipe, seed, precision and memory layout, which make its
    key. With the loop on a CPU it does not depend on other members that are computed beside it, nor on the process: it
    is the same, bit for bit, on the same kind of CPU with the same number of threads. Device, kind of CPU, threads and
    executor round differently. Over a few hundred steps this grows: another layout or number of threads gave 5 to 7% of
    test images another label. The accuracy differs as between two seeds.

    Attributes:
        settings: Where and how fits are computed.
        store: Where finished fits are kept; None for nowhere. Fits of whole members with callbacks do not use it.
        tracker: Where learning curves are sent.
        tells: Whether a line of the log says what is trained, where no progress is shown.
    """

    settings: TrainerSettings = field(default_factory=TrainerSettings)
    store: Store | None = None
    tracker: Tracker | None = None
    tells: bool = True

    def check(self, architecture: Architecture) -> None:
        """Raise a SettingError if the executor that was asked for cannot train this architecture."""
        if self.settings.executor == "vectorised":
            refuse_unvectorisable(architecture)

    def fit(
        self,
        architecture: Architecture,
        starts: Sequence[Start],
        task: Task,
        recipe: Recipe,
        phase: str,
        heads: bool = False,
    ) -> Fits:
        """Train members on a task's training images, or the head of each on the features of its frozen encoder.

        Of the features only those of images that its steps draw are computed. It is no Lightning fit, and callbacks do
        not see it.

        Args:
            architecture: Architecture of the members.
            starts: Where their fits start.
            task: What they are trained on; its validation images are for the tracker's curves alone.
            recipe: What each fit may spend.
            phase: Name for ledger, bars and curves.
            heads: Whether heads alone are trained.

        Raises:
            DivergedError: If a fit diverges.
            SettingError: If a setting cannot be used.
        """
        spec = FitSpec(architecture, task.train, recipe, phase, heads, task.validation)
        spec.check()
        keys = [spec.key(start, self.settings) for start in starts]
        store = None if self.settings.callbacks and not heads else self.store  # callbacks may change a fit
        found = {} if store is None else {key: fitted for key in keys if (fitted := store.get(key)) is not None}
        missing = {key: start for key, start in zip(keys, starts, strict=True) if key not in found}
        if missing:
            with self._prepared(spec, missing, store) as (fitter, workers):
                many = workers > 1
                found |= compute_beside(fitter, spec, missing, workers) if many else fitter.compute(spec, missing)
        fits = Fits(phase, tuple(start.member for start in starts), tuple(found[key] for key in keys), recipe)
        self._send_reused_curves(fits, recipe)
        return fits

    @contextmanager
    def _prepared(
        self, spec: FitSpec, missing: Mapping[str, Start], store: Store | None
    ) -> Iterator[tuple[GroupFitter, int]]:
        """Yield what computes fits, and in how many processes; torch's generators are left as they are."""
        if self.tells and not self.settings.progress:
            members = member_names([start.member for start in missing.values()])
            log.info("%s: training %s, %d steps each", spec.phase, members, spec.recipe.steps)
        settings = self.settings if spec.heads else self._decided(spec, len(missing))
        gpu = [torch.cuda.current_device()] if settings.device.type == "cuda" else []
        shown = Bars() if settings.progress else nullcontext()
        with self.settings.applied(), torch.random.fork_rng(devices=gpu), shown as report:
            fitter = GroupFitter(settings, store, self.tracker, report)
            workers = number_of_workers(self.settings, spec, len(missing))
            if workers == 1:
                start_ahead(self.settings, spec)
            try:
                yield fitter, workers
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):  # of torch's batch norm
                    raise
                rule = "is too small: BatchNorm needs two or more values of every channel of such images"
                raise SettingError("batch_size", spec.batch_size, rule) from error

    def _decided(self, spec: FitSpec, members: int) -> TrainerSettings:
        """Return the settings with an executor that trains so many members of this work."""
        executor = chosen_executor(self.settings, members, spec.step_flops)
        if executor == "vectorised":
            try:
                refuse_unvectorisable(spec.architecture)
            except SettingError:
                if self.settings.executor != "auto":
                    raise
                executor = "loop"
        return replace(self.settings, executor=executor)

    def _send_reused_curves(self, fits: Fits, recipe: Recipe) -> None:
        if self.tracker is None:
            return
        points: dict[int, dict[int, float]] = {}
        for member, fitted in zip(fits.members, fits.fitted, strict=True):
            for step, loss in fitted.curve.tolist() if fitted.reused else []:
                points.setdefault(int(step), {})[member] = loss
        for step, losses in sorted(points.items()):
            self.tracker.curve(fits.phase, step, losses, {"lr": recipe.lr * recipe.rate(step)})
