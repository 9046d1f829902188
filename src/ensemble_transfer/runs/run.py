"""Run an experiment: train the source ensemble if there is a source, transfer it, evaluate it, write the record."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.machine import FLOPS_A_SECOND, SECONDS_A_STEP
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.conclusion import conclude
from ensemble_transfer.runs.evaluation import tell_size
from ensemble_transfer.runs.experiment import Experiment, PreparedRun, load_tasks
from ensemble_transfer.runs.inputs import inputs_of
from ensemble_transfer.runs.minutes import fine_tunings_in
from ensemble_transfer.source.existing import count_members
from ensemble_transfer.source.train import keep_source, members_alone, train_source
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.loss import check_class_weights
from ensemble_transfer.training.progress import Tracker
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.base import check_strategy, run_strategy
from ensemble_transfer.transfer.budget import seconds_of
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import Workbench

DAY = 24 * 3600.0

GPU_FLOPS_A_SECOND = 1e13
"""What a GPU computes of convolutions, roughly."""

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
    result = run_strategy(experiment.strategy, prepared.bench)
    record, config = conclude(prepared, result, folder), dict(origin.config)
    if isinstance(experiment.budget, str):  # what repeats the run, and what was asked for
        config["budget"] = prepared.experiment.budget
        record = replace(record, cost={**record.cost, "asked": experiment.budget})
    record = replace(record, config=config, command=origin.command)
    record.save(folder)
    return record


def prepare(experiment: Experiment, tracker: Tracker | None) -> PreparedRun:
    """Load the tasks, check the budget, and return the run with its members, trained on the source if there is one."""
    flops = experiment.recipes.full.batch_size * step_flops(experiment.architecture)
    experiment.fitter.settings.use_threads(flops)  # that suit the steps of a full fine-tuning
    seed, recipes, fitter = experiment.seed, experiment.recipes, replace(experiment.fitter, tracker=tracker)
    inputs = inputs_of(experiment)  # before they are read: what changes meanwhile counts as changed
    tasks, size = load_tasks(experiment), experiment.ensemble.count
    check_class_weights(recipes, tasks.target.train.labels, len(tasks.target.classes))
    budget = experiment.budget
    if isinstance(budget, str):
        budget = fine_tunings_in(budget, experiment, tasks)
        experiment = replace(experiment, budget=budget)
    experiment.strategy.plan(Prices.of(experiment.architecture, tasks.target, recipes, size, budget))
    warn_of_days(experiment)
    tell_size(tasks, experiment.evaluation, size)
    ledger: Ledger | None = None
    if tasks.source is None:
        source = members_alone(experiment.ensemble, experiment.backbone, tasks.target, seed)
    else:
        source, ledger = train_source(experiment.ensemble, experiment.backbone, tasks.source, seed, recipes, fitter)
        if fitter.store is not None and (folder := keep_source(source, fitter.store)) is not None:
            write_card(folder, source)  # all runs that start from it share it
    # once more: given files may be the same
    check_strategy(experiment.strategy, len(source), source.architecture, source.lineage, budget)
    name, about = experiment.strategy.name, experiment.strategy.about
    bench = Workbench(source, tasks.target.sealed(), seed, recipes, fitter, budget, strategy=name, about=about)
    return PreparedRun(experiment, tasks, bench, ledger, inputs)


def warn_of_days(experiment: Experiment) -> None:
    """Log a warning if a run may take more than a day, if the store has none of its fits."""
    seconds = expected_seconds(experiment)
    if seconds > DAY:
        text = "this run may take %s days on this machine, by a rough estimate; budget, ensemble.size and the steps of "
        log.warning(text + "recipe say how long", f"{seconds / DAY:,.0f}" if seconds > 2 * DAY else "1 to 2")


def expected_seconds(experiment: Experiment) -> float:
    """Return the seconds that an experiment may take at the most, roughly, on one core or one GPU.

    The transfer takes its budget; without one, as long as fine-tuning all members fully, which none exceeds by much.
    """
    recipes, size = experiment.recipes, experiment.ensemble.count
    own = experiment.ensemble
    given = size if experiment.dataset.source is None else count_members([*own.members, *own.added])
    trained = size - min(size, given)
    ancestors = trained if experiment.ensemble.lineage == "independent" else min(1, trained)
    timed = seconds_of(experiment.budget) if isinstance(experiment.budget, str) else 0.0
    tuned = size if experiment.budget is None else 0.0 if isinstance(experiment.budget, str) else experiment.budget
    speed = GPU_FLOPS_A_SECOND if experiment.fitter.settings.device.type == "cuda" else FLOPS_A_SECOND
    flops = step_flops(experiment.architecture)

    def fit(recipe: Recipe) -> float:
        return recipe.steps * (recipe.batch_size * flops / speed + SECONDS_A_STEP)

    return ancestors * fit(recipes.ancestor) + trained * fit(recipes.source) + tuned * fit(recipes.full) + timed
