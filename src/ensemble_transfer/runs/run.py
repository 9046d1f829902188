"""Run an experiment: train the source ensemble if there is a source, transfer it, evaluate it, write the record."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.conclusion import conclude
from ensemble_transfer.runs.duration import warn_of_days
from ensemble_transfer.runs.evaluation import tell_size
from ensemble_transfer.runs.experiment import Experiment, PreparedRun, load_tasks
from ensemble_transfer.source.train import keep_source, members_alone, train_source
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.progress import Tracker
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import Workbench, check_members
from ensemble_transfer.transfer.prices import Prices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Origin of a run, for its record and its learning curves."""

    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    tracker: Tracker | None = None


def run(experiment: Experiment, folder: Path, origin: Origin | None = None) -> Record:
    """Run an experiment, write its files into a folder, and return its record.

    Raises:
        SettingError: If a setting cannot be used. This is found before anything is trained on the target.
    """
    origin = origin or Origin()
    prepared = prepare(experiment, origin.tracker)
    log.info("%s: transferring %d members", experiment.strategy.name, len(prepared.bench.source))
    result = experiment.strategy.run(prepared.bench)
    record = replace(conclude(prepared, result, folder), config=origin.config, command=origin.command)
    record.save(folder)
    return record


def prepare(experiment: Experiment, tracker: Tracker | None) -> PreparedRun:
    """Load the tasks, check the budget, and return the run with its members, trained on the source if there is one."""
    flops = experiment.recipes.full.batch_size * step_flops(experiment.architecture)
    experiment.fitter.settings.use_threads(flops)  # that suit the steps of a full fine-tuning
    seed, recipes, fitter = experiment.seed, experiment.recipes, replace(experiment.fitter, tracker=tracker)
    tasks, budget, size = load_tasks(experiment), experiment.budget, experiment.ensemble.count
    if tracker is not None:
        own = [task for task in (tasks.source, tasks.target) if task is not None]
        fitter = replace(fitter, validation={task.train.fingerprint: task.validation for task in own})
    experiment.strategy.plan(Prices.of(experiment.architecture, tasks.target, recipes, size, budget))
    warn_of_days(experiment)
    tell_size(tasks, experiment.evaluation, size)
    ledger: Ledger | None = None
    if tasks.source is None:
        source = members_alone(experiment.ensemble, experiment.backbone, tasks.target, seed)
    else:
        source, ledger = train_source(experiment.ensemble, experiment.backbone, tasks.source, seed, recipes, fitter)
        keep(source, fitter.store)
    check_members(experiment.strategy, len(source), source.architecture, source.lineage)  # given files may be the same
    name, about = experiment.strategy.name, experiment.strategy.about
    bench = Workbench(source, tasks.target.sealed(), seed, recipes, fitter, budget, strategy=name, about=about)
    return PreparedRun(experiment, tasks, bench, ledger)


def keep(source: Ensemble, store: Store | None) -> None:
    """Save the source ensemble in the store by its fingerprint, so that all runs that start from it share it."""
    if store is not None and (folder := keep_source(source, store)) is not None:
        write_card(folder, source)
