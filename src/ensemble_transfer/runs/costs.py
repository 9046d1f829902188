"""The costs of a record: by phase, in total, of one more member, of a prediction; in FLOPs and in time."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.runs.environment import machine
from ensemble_transfer.training.cost import Cost, FineTuning, Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.store import key_of
from ensemble_transfer.transfer.workbench import TransferResult, Workbench

WARM, TIMED = 2, 22
"""Steps of two fits whose difference tells the time of a step, where nothing in the ledger does."""

FEWEST, ENOUGH = 3, 1.0
"""The second has fewer more where these take so many seconds, but no fewer than so many."""

log = logging.getLogger(__name__)


def costs(result: TransferResult, source: Ledger | None, bench: Workbench) -> dict[str, Any]:
    """Return the costs of a record."""
    unit, ledger, marginal = fine_tuning(bench, result.ledger), result.ledger, result.marginal()
    total, size = unit.measured(ledger.total()), len(result.ensemble)
    return {
        "phases": {phase: unit.measured(cost) for phase, cost in ledger.by_phase().items()},
        "total": total,
        "per_member": {k: v if k == "peak_memory_bytes" else v / size for k, v in total.items()},
        "marginal": unit.measured(marginal) if marginal else None,
        **({} if source is None else {"source": unit.measured(source.total())}),
        "prediction": prediction(result.ensemble),
        "full_flops": unit.flops,
        "full_seconds": unit.seconds,
    }


def prediction(ensemble: Ensemble) -> dict[str, int]:
    """Return what a prediction for one image takes: ``networks``, which are its forward passes, and ``flops``."""
    architecture = ensemble.architecture
    heads = len(ensemble) * 2 * architecture.features * architecture.classes
    networks = sum(encode_flops(ensemble.architecture_of(group[0])) for group in ensemble.by_encoder)
    return {"networks": len(ensemble.by_encoder), "flops": networks + heads}


def fine_tuning(bench: Workbench, ledger: Ledger) -> FineTuning:
    """Return the unit of cost on this machine.

    Its seconds are those of the longest full fine-tuning in the ledger, by its steps, at the image size that it is
    counted at. Where there is none of twenty steps, a short one is timed, which nobody pays for; the store keeps its
    time for this machine. Images that are stored smaller are timed at their size, and the seconds follow the FLOPs.
    """
    unit = FineTuning(bench.prices.unit, 1.0, bench.fitter.settings.device.type == "cuda")
    bench = bench.at(min(bench.recipes.image_size or bench.prices.image_size, bench.prices.image_size))
    whole = [
        entry.cost
        for entry in ledger.entries
        if entry.phase == "full" and TIMED - WARM <= entry.cost.steps == entry.cost.flops / bench.prices.step
    ]
    longest = max(whole, key=lambda cost: cost.steps, default=None)
    seconds_a_step = unit.time(longest) / longest.steps if longest is not None else _kept(bench, unit.time)
    return replace(unit, seconds=max(seconds_a_step, 1e-9) * unit.flops / bench.prices.step)


def seconds_a_fine_tuning(bench: Workbench) -> float:
    """Return the seconds on the clock that the FLOPs of a fine-tuning take here, at the image size of the work.

    Some steps are timed, which nobody pays for.
    """
    return max(_seconds_a_step(bench, lambda cost: cost.seconds), 1e-9) * bench.prices.unit / bench.prices.step


def _kept(bench: Workbench, time: Callable[[Cost], float]) -> float:
    """Return what a step of a full fine-tuning takes on this machine, from the store or timed."""
    store, key = bench.fitter.store, _key(bench)
    known = None if store is None else store.seconds(key)
    if known is not None:
        return known
    log.info("timing a fine-tuning for the costs by time; it changes nothing and is in no cost")
    seconds = _seconds_a_step(bench, time)
    if store is not None and seconds > 0:
        store.put_seconds(key, seconds)
    return seconds


def _seconds_a_step(bench: Workbench, time: Callable[[Cost], float]) -> float:
    first = time(_timed(bench, WARM)) / WARM  # the first steps of a process are slower
    steps = min(TIMED - WARM, max(FEWEST, math.ceil(ENOUGH / max(first, 1e-9))))
    return (time(_timed(bench, WARM + steps)) - time(_timed(bench, WARM))) / steps


def _key(bench: Workbench) -> str:
    """Return a hash of all that decides how long a step takes: the work, how it is computed, and the machine."""
    recipe, settings = bench.recipes.full, bench.fitter.settings
    batch = min(recipe.batch_size, len(bench.target.train) * recipe.views)
    return key_of(
        timed="a step",
        architecture=bench.architecture.plain(),
        batch=batch,
        recipe=[recipe.optimizer, recipe.batchnorm, recipe.augment],
        computed=[settings.arithmetic, settings.lays_channels_last, settings.executor],
        machine=machine(settings),
        torch=torch.__version__,
    )


def _timed(bench: Workbench, steps: int) -> Cost:
    """Return the cost of a short full fine-tuning, which changes nothing, is not stored and shows no progress."""
    quiet = Fitter(replace(bench.fitter.settings, progress=False, callbacks=[], workers=1), tells=False)
    aside = replace(bench.unbilled(), fitter=quiet)
    still = replace(bench.recipes.full, steps=steps, lr=1e-12)
    return aside.fine_tune_fully(bench.first_encoders(1), still).fitted[0].cost
