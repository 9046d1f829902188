"""The story of one run: source -> transfer -> evaluate -> record."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble_transfer.errors import settings_under
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.layout import DESCRIPTION
from ensemble_transfer.models.backbone import Architecture, Backbone
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.conclusion import Tasks, conclude
from ensemble_transfer.runs.evaluation import EvaluationSettings
from ensemble_transfer.tasks.task import Task, TaskSource
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.flops import step_flops
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.source import EnsembleSettings, train_source
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import Strategy, Transfer
from ensemble_transfer.transfer.strategies.shift import Shift

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A source -> target pair, and the images that both are brought to.

    Attributes:
        source: Where the source task comes from.
        target: Where the target task comes from.
        image_size: Height and width of the images, in pixels.
        channels: 1 for gray, 3 for RGB.
    """

    source: TaskSource
    target: TaskSource
    image_size: int
    channels: int


@dataclass(frozen=True)
class Experiment:
    """One run: what is transferred, from where to where, and how.

    Attributes:
        dataset: Source and target task.
        backbone: Encoder of the members.
        ensemble: Size and lineage of the ensemble.
        strategy: How it is transferred.
        recipes: What fits may spend.
        evaluation: What the result is evaluated on.
        fitter: Where and how fits are computed and remembered.
        outside: Out-of-distribution tasks by name, besides the source task.
        seed: Of all that is random.
    """

    dataset: Dataset
    backbone: Backbone
    ensemble: EnsembleSettings
    strategy: Strategy
    recipes: Recipes
    evaluation: EvaluationSettings
    fitter: Fitter
    outside: Mapping[str, TaskSource] = field(default_factory=dict)
    seed: int = 0

    def check(self) -> None:
        """Raise a SettingError for settings that do not go together, before anything is loaded."""
        with settings_under("strategy"):
            self.strategy.check(self.ensemble.size)
        with settings_under("backbone"):
            self._step_flops()
        with settings_under("strategy"):
            if isinstance(self.strategy, Shift):
                self.strategy.check_encoder(self._architecture())
        with settings_under("trainer"):
            self.fitter.check(self._architecture())

    def use_threads(self) -> None:
        """Set the number of torch's threads to what the steps of a full fine-tuning can feed."""
        self.fitter.settings.use_threads(self.recipes.full.batch_size * self._step_flops())

    def _step_flops(self) -> int:
        return step_flops(self._architecture())

    def _architecture(self) -> Architecture:
        return self.backbone.architecture(self.dataset.image_size, self.dataset.channels, classes=2)


def run(experiment: Experiment, folder: Path, config: Mapping[str, Any] | None = None, command: str = "") -> Record:
    """Run an experiment, write its files into a folder, and return its record.

    Args:
        experiment: What to run.
        folder: Where record, predictions, ensemble and shift vector go; must exist.
        config: The configuration that describes the experiment, for the record.
        command: The command that repeats the run, for the record.

    Raises:
        SettingError: If a setting cannot be used; nothing has been trained then.
    """
    experiment.check()
    experiment.use_threads()
    seed, recipes, fitter = experiment.seed, experiment.recipes, experiment.fitter
    tasks = load_tasks(experiment)
    source, ledger = train_source(experiment.ensemble, experiment.backbone, tasks.source, seed, recipes, fitter)
    keep(source, fitter.store)
    strategy = experiment.strategy
    log.info("%s: transferring %d members", strategy.name, len(source))
    target = tasks.target.sealed()
    result = strategy.transfer(source, target, seed, recipes, fitter)
    work = Transfer(source, target, seed, recipes, fitter)
    record = conclude(work, tasks, result, ledger, strategy.name, experiment.evaluation, folder)
    record = replace(record, config=config or {}, command=command)
    record.save(folder)
    return record


def load_tasks(experiment: Experiment) -> Tasks:
    """Load source, target and what is out of distribution; an error names the setting's full path."""
    dataset = experiment.dataset

    def load(source: TaskSource, setting: str) -> Task:
        with settings_under(setting):
            return source.load(dataset.image_size, dataset.channels)

    source, target = load(dataset.source, "dataset.source"), load(dataset.target, "dataset.target")
    outside = {name: load(task, f"evaluation.ood.{name}").test for name, task in experiment.outside.items()}
    for what, task in (("source", source), ("target", target)):
        sizes = (len(task.train), len(task.validation), len(task.test), len(task.classes))
        log.info("%s task %s: %d train, %d validation, %d test images, %d classes", what, task.name, *sizes)
    return Tasks(source, target, {"source": source.test} | outside)


def keep(source: Ensemble, store: Store | None) -> None:
    """Keep the source ensemble in the store, by its fingerprint: all runs that start from it share it."""
    if store is None:
        return
    folder = store.ensemble(source.fingerprint)
    if not (folder / DESCRIPTION).exists():  # written last: a folder without it was interrupted
        source.save(folder)
        write_card(folder, source)
