"""A budget in minutes: how many fine-tunings this machine does in a time."""

import logging
from math import floor
from time import perf_counter

from ensemble_transfer.errors import require
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.runs.costs import seconds_a_fine_tuning
from ensemble_transfer.runs.evaluation import Tasks, images_of
from ensemble_transfer.runs.experiment import Experiment
from ensemble_transfer.transfer.budget import seconds_of
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
    log.info("timing some steps, to know what %s pays for", budget)
    unit = seconds_a_fine_tuning(bench)
    networks = 1 + (getattr(experiment.strategy, "members", None) or experiment.ensemble.count)  # and a soup
    evaluating = networks * images_of(tasks, experiment.evaluation) * _seconds_an_image(bench)
    found = floor(100 * (allowed - evaluating - (perf_counter() - started)) / unit) / 100
    rule = f"does not pay for the evaluation, which takes about {evaluating:.0f} s, and a fine-tuning of {unit:.3g} s"
    require(found > 0, "budget", budget, rule)
    log.info("budget=%s is budget=%g on this machine: a fine-tuning takes %.3g s", budget, found, unit)
    return found


def _seconds_an_image(bench: Workbench) -> float:
    """Return the seconds that one member's prediction of an image takes."""
    device, images = bench.fitter.settings.device, bench.target.validation.images[:IMAGES]
    bench.source.predict(images[:1], device)
    started = perf_counter()
    bench.source.predict(images, device)
    return (perf_counter() - started) / len(images)
