"""The story of one run: source -> transfer -> evaluate -> record."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_transfer import environment
from ensemble_transfer.backbone import Architecture, Backbone
from ensemble_transfer.calibration import Calibration
from ensemble_transfer.card import write_card
from ensemble_transfer.cost import Ledger, plain
from ensemble_transfer.ensemble import Ensemble
from ensemble_transfer.errors import settings_under
from ensemble_transfer.evaluate import curves
from ensemble_transfer.predictions import (
    Arrays,
    EvaluationSettings,
    metrics_of,
    predict_soup,
    predict_source,
    predict_target,
)
from ensemble_transfer.records import Record
from ensemble_transfer.store import Store
from ensemble_transfer.strategies.diagnostics import diagnose_shift, shift_line, source_barrier
from ensemble_transfer.strategies.transfer import Strategy, Transfer, TransferResult
from ensemble_transfer.tasks.task import Split, Task, TaskSource
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.flops import step_flops
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.training.source import EnsembleSettings, train_source
from ensemble_transfer.weights import (
    below,
    cosine,
    distance,
    floating,
    mean_over_pairs,
)

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
    source, target, outside = _tasks(experiment)
    ensemble, source_ledger = train_source(experiment.ensemble, experiment.backbone, source, seed, recipes, fitter)
    _keep(ensemble, fitter.store)
    log.info("%s: transferring %d members", experiment.strategy.name, len(ensemble))
    result = experiment.strategy.transfer(ensemble, target.sealed(), seed, recipes, fitter)
    work = Transfer(ensemble, target.sealed(), seed, recipes, fitter)
    metrics, line = _diagnosed(experiment, work, result, source)
    log.info("evaluating on %d test images", len(target.test))
    device = fitter.settings.device
    arrays = predict_source(ensemble, source, device)
    arrays |= predict_target(result.ensemble, target, outside, experiment.evaluation, device)
    arrays |= predict_soup(work.ensemble([work.soup(result.ensemble.members)], "soup"), target, device)
    _save(folder, arrays, result)
    fits = [entry for entry in (*source_ledger.entries, *result.ledger.entries) if entry.reused]
    record = Record(
        status="finished",
        strategy=experiment.strategy.name,
        seed=seed,
        dataset=f"{source.name} -> {target.name}",
        backbone=experiment.backbone.name,
        ensemble={"size": len(ensemble), "lineage": ensemble.lineage},
        metrics=metrics_of(arrays) | metrics,
        cost=_costs(result, source_ledger),
        reused_fits=[{"phase": fit.phase, "member": fit.member, "key": fit.key} for fit in fits],
        curves=_curves(arrays) | line,
        config=config or {},
        environment=environment.describe(device),
        command=command,
    )
    examples = {"train": len(target.train), "validation": len(target.validation), "test": len(target.test)}
    write_card(folder / "ensemble", result.ensemble, record.metrics, record.cost, examples)
    record.save(folder)
    return record


def _diagnosed(
    experiment: Experiment, work: Transfer, result: TransferResult, source: Task
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what weights and a shift vector say, as metrics and curves; nothing here reads a test split."""
    metrics = weight_metrics(work.source, result)
    if result.shift is None or experiment.strategy.name == "random_shift" or not experiment.evaluation.diagnostics:
        return metrics, {}
    log.info("diagnosing the shift on validation")
    metrics["source/validation/barrier"] = source_barrier(
        work.source, source.validation, experiment.fitter.settings.device
    )
    return metrics | diagnose_shift(work, result, result.shift), {"shift_line": shift_line(work, result)}


def weight_metrics(source: Ensemble, result: TransferResult) -> dict[str, float]:
    """Return how far apart the members' encoders are, before and after the transfer."""
    metrics: dict[str, float] = {}
    for name, ensemble in (("source", source), ("target", result.ensemble)):
        encoders = [floating(below(member, "encoder")) for member in ensemble.members]
        metrics[f"{name}/diversity/weight_distance"] = mean_over_pairs(distance, encoders)
        metrics[f"{name}/diversity/weight_cosine"] = mean_over_pairs(cosine, encoders)
    return metrics


def _tasks(experiment: Experiment) -> tuple[Task, Task, dict[str, Split]]:
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
    return source, target, {"source": source.test} | outside


def _costs(result: TransferResult, source: Ledger) -> dict[str, Any]:
    total, marginal, size = result.ledger.total(), result.marginal(), len(result.ensemble)
    costs: dict[str, Any] = {
        "phases": {phase: plain(cost) for phase, cost in result.ledger.by_phase().items()},
        "total": plain(total),
        "per_member": {k: v if k == "peak_memory_bytes" else v / size for k, v in plain(total).items()},
        "marginal": plain(marginal) if marginal else None,
        "source": plain(source.total()),
    }
    return costs


def _curves(arrays: Arrays) -> dict[str, Any]:
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    return curves(arrays["probabilities"], arrays["labels"], validation=held_out)


def _keep(source: Ensemble, store: Store | None) -> None:
    """Keep the source ensemble in the store, by its fingerprint: all runs that start from it share it."""
    if store is None:
        return
    folder = store.ensemble(source.fingerprint)
    if not (folder / "ensemble.json").exists():  # written last: a folder without it was interrupted
        source.save(folder)


def _save(folder: Path, arrays: Arrays, result: TransferResult) -> None:
    np.savez_compressed(folder / "predictions.npz", **arrays)  # type: ignore[arg-type]  # stub lacks the mapping
    result.ensemble.save(folder / "ensemble")
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    Calibration.fit(*held_out).save(folder / "ensemble", result.ensemble.fingerprint)
    if result.shift is not None:
        result.shift.save(folder)
