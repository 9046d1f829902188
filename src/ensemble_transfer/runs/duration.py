"""How long a run may take, told before it starts."""

import logging

from ensemble_transfer.machine import FLOPS_A_SECOND, SECONDS_A_STEP
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.runs.experiment import Experiment
from ensemble_transfer.training.recipe import Recipe

DAY = 24 * 3600.0

GPU_FLOPS_A_SECOND = 1e13
"""What a GPU computes of convolutions, roughly."""

log = logging.getLogger(__name__)


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
    given = size if experiment.dataset.source is None else len(experiment.ensemble.members)
    trained = size - min(size, given)
    ancestors = trained if experiment.ensemble.lineage == "independent" else min(1, trained)
    tuned = size if experiment.budget is None else experiment.budget
    speed = GPU_FLOPS_A_SECOND if experiment.fitter.settings.device.type == "cuda" else FLOPS_A_SECOND
    flops = step_flops(experiment.architecture)

    def fit(recipe: Recipe) -> float:
        return recipe.steps * (recipe.batch_size * flops / speed + SECONDS_A_STEP)

    heads = size * (recipes.probe.steps + recipes.head.steps) * SECONDS_A_STEP if experiment.budget is None else 0.0
    members = ancestors * fit(recipes.ancestor) + trained * fit(recipes.source)
    return members + tuned * fit(recipes.full) + size * fit(recipes.tiny) * (experiment.budget is None) + heads
