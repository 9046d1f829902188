"""A budget in minutes: how many fine-tunings this machine does in a time."""

import logging
from dataclasses import replace
from itertools import count
from math import floor
from time import perf_counter

from ensemble_transfer.errors import require
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.models.sizes import listed
from ensemble_transfer.runs.costs import seconds_a_fine_tuning
from ensemble_transfer.runs.evaluation import Tasks, images_of
from ensemble_transfer.runs.experiment import Experiment
from ensemble_transfer.transfer.budget import seconds_of
from ensemble_transfer.transfer.growth import GrowthPlan
from ensemble_transfer.transfer.strategies.auto import Auto
from ensemble_transfer.transfer.workbench import Workbench

IMAGES = 64
"""Validation images, at the most, that a prediction is timed on."""

log = logging.getLogger(__name__)


def fine_tunings_in(budget: str, experiment: Experiment, tasks: Tasks) -> float:
    """Return how many fine-tunings fit into a time on this machine, in hundredths, rounded down.

    The time is that of the transfer and of its evaluation, one fit after another: a run whose members are trained in
    several processes ends before. Loading, and training on a source task, are not in it. A few steps and predictions
    are timed, which are in it and in no cost.

    Args:
        budget: The time, such as ``10min``.
        experiment: The settings of the run.
        tasks: Its images.

    Raises:
        SettingError: If the time does not pay for the evaluation and a hundredth of a fine-tuning.
    """
    started, allowed = perf_counter(), seconds_of(budget)
    architecture = experiment.architecture
    member = Ensemble(architecture, (architecture.initial(0),), ("any", "other"))
    bench = Workbench(member, tasks.target.sealed(), 0, experiment.recipes, experiment.fitter)
    size = max(listed(getattr(experiment.strategy, "image_size", None)), default=architecture.image_size)
    log.info("timing some steps, to know what %s pays for", budget)
    unit = seconds_a_fine_tuning(bench.at(size))
    each = images_of(tasks, experiment.evaluation) * _seconds_an_image(bench, size)
    left = allowed - (perf_counter() - started)
    for members in count(1):  # the fewest that the rest pays for no more than
        evaluating = (members + (members > 1)) * each  # and their soup
        found = floor(100 * (left - evaluating) / unit) / 100
        rule = f"does not pay for the evaluation of about {evaluating:.0f} s, and a fine-tuning of {unit:.3g} s"
        require(found > 0, "budget", budget, rule)
        if _members(experiment, bench, found) <= members:
            break
    log.info("budget=%s is budget=%g on this machine: a fine-tuning takes %.3g s", budget, found, unit)
    return found


def _members(experiment: Experiment, bench: Workbench, budget: float) -> int:
    """Return how many members a budget in fine-tunings makes, at most; members that ``auto`` grows depend on it."""
    strategy, most = experiment.strategy, experiment.ensemble.count
    if isinstance(strategy, Auto) and bench.recipes.pretrained:
        return GrowthPlan.of(replace(bench.prices, members=most, budget=budget), listed(strategy.image_size)).members
    members: int | None = getattr(strategy, "members", None)
    return members or most


def _seconds_an_image(bench: Workbench, size: int) -> float:
    """Return the seconds that the prediction of an image takes a member of an image size."""
    device, images = bench.fitter.settings.device, bench.target.validation.images[:IMAGES]
    stored = bench.source.architecture
    member = Ensemble(stored, (stored.at(size).initial(0),), bench.source.classes, sizes=(size,))
    member.predict(images[:1], device)
    started = perf_counter()
    member.predict(images, device)
    return (perf_counter() - started) / len(images)
