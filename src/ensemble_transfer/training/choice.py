"""Which executor is the faster one here: a few steps of both on copies, once for each kind of fit."""

import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.executors import Loop, Stacked
from ensemble_transfer.training.lockstep import Lockstep
from ensemble_transfer.training.memory import is_out_of_memory, released
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings

SHORTEST = 300
"""Steps from which a trial is earned back: it takes six steps and copies of the members, below 5% of them."""

NEEDED = 0.95
"""Share of the loop's seconds that the stacked network must stay below: ties go to the loop, whose results are exact
copies of each other in groups of any size."""

_REPEATS = 2

_chosen: dict[tuple[object, ...], str] = {}

log = logging.getLogger(__name__)


def make_group(executor: str, modules: Sequence[nn.Module], settings: TrainerSettings) -> Loop | Stacked:
    """Return the members as the executor holds them."""
    if executor == "vectorised":
        return Stacked(modules)
    return Loop(modules, torch.channels_last if settings.channels_last else torch.contiguous_format)


def decided(
    settings: TrainerSettings,
    modules: Sequence[nn.Module],
    batches: Batches,
    recipe: Recipe,
) -> TrainerSettings:
    """Return settings whose executor is ``loop`` or ``vectorised``.

    With ``auto``, fits get the one that was measured as faster, in this process, for the same network, inputs, number
    of members, optimizer, device, precision and threads. One member, and fits that are too short to earn a trial back,
    get the loop. Modules and randomness stay as they were.

    Args:
        settings: Where and how the fit is computed.
        modules: The members.
        batches: What they see.
        recipe: What the fit may spend.
    """
    if settings.executor != "auto":
        return settings
    inputs, _ = batches[0]
    where = (settings.device, settings.precision, settings.channels_last, torch.get_num_threads())
    kind = (repr(modules[0]), inputs.shape, inputs.dtype, recipe.optimizer, where)
    if kind not in _chosen and (len(modules) == 1 or recipe.steps < SHORTEST):
        return replace(settings, executor="loop")
    if kind not in _chosen:
        _chosen[kind] = _faster(settings, modules, batches, recipe)
    return replace(settings, executor=_chosen[kind])


def _faster(settings: TrainerSettings, modules: Sequence[nn.Module], batches: Batches, recipe: Recipe) -> str:
    devices = [settings.device] if settings.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            loop, stacked = (_step(name, settings, modules, batches, recipe) for name in ("loop", "vectorised"))
            for step in (loop, stacked):
                step()
            seconds = [(loop(), stacked()) for _ in range(_REPEATS)]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = "out of memory" if is_out_of_memory(error) else str(error).strip().split("\n")[0]
        log.info("executor=auto: loop, since the members cannot be stacked (%s)", reason)
        return "loop"
    finally:
        released()
    of_loop, of_stacked = (min(column) for column in zip(*seconds, strict=True))
    chosen = "vectorised" if of_stacked < NEEDED * of_loop else "loop"
    said = "executor=auto: %s; a step of %d members takes %.1f ms in the loop and %.1f ms vectorised"
    log.info(said, chosen, len(modules), 1e3 * of_loop, 1e3 * of_stacked)
    return chosen


def _step(
    executor: str, settings: TrainerSettings, modules: Sequence[nn.Module], batches: Batches, recipe: Recipe
) -> Callable[[], float]:
    """Return a function that takes a step of copies of the members and returns its seconds."""
    device = settings.device
    group = make_group(executor, [deepcopy(module).train() for module in modules], settings).to(device)
    lockstep = Lockstep(group, recipe, batches.seeds)
    [optimizer], _ = lockstep.configure_optimizers()

    def seconds() -> float:
        started = time.perf_counter()
        inputs, labels = batches[0]
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            lockstep.gradients((inputs.to(device), labels.to(device)), step=0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return seconds
