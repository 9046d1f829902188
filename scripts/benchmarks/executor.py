"""Vectorised members against the loop, by number, width and image size: what the rule of ``executor=auto`` rests on.

On a CPU ``auto`` is the loop whatever is faster, so that fits do not depend on their group; on a GPU it is to be the
faster one. Aims there: auto at most 1.05 times the faster; for 8 small members vectorised has 3 times the throughput.
"""

from __future__ import annotations

from functools import partial

import torch
from measure import Options, Result, digits, fitter, interleaved, medians, network, ratios, starts, under

from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.training.executors import chosen_executor
from ensemble_transfer.training.recipe import Recipe

STEPS = 100


def run(options: Options) -> Result:
    """Fit members by each executor, and by the loop in the other memory layout; on a GPU also in bfloat16."""
    on_gpu = torch.cuda.is_available()
    cases = [(m, width, size) for width, size in ((1, 8), (1, 28), (4, 14)) for m in (2, 4, 8, 16)]
    cases += [(m, 8, 64) for m in (2, 8)] if on_gpu else []
    found: Result = {}
    for members, width, size in [(2, 1, 8)] if options.quick else cases:
        for precision in ("32-true", "bf16-mixed") if on_gpu else ("32-true",):
            name = f"{members} members, {width} x as wide, {size} pixels, {precision}"
            found |= under(name, compare(options, members, width, size, precision))
    return found


def compare(options: Options, members: int, width: int, size: int, precision: str) -> Result:
    """Return the ratios of one case, and how far the rule's choice is from the faster executor."""
    ways: dict[str, dict[str, object]] = {name: {"executor": name} for name in ("loop", "vectorised")}
    ways["loop, other layout"] = {"executor": "loop", "channels_last": torch.cuda.is_available()}
    architecture, task = network(size, width=width), digits(500, size)
    recipe, begin = Recipe(2 if options.quick else STEPS), starts(architecture, members)
    calls = {}
    for name, way in ways.items():
        ours = fitter(options, precision=precision, **way)
        ours.fit(architecture, begin, task, Recipe(2), "warm")
        calls[name] = partial(ours.fit, architecture, begin, task, recipe, "benchmark")
    times = interleaved(calls, 1 if options.quick else 3)
    result: Result = {}
    for name in [name for name in ways if name != "loop"]:
        result |= ratios(times, name, "loop")
    vectorised = float(result["ratio vectorised to loop, wall"])
    result["ratio throughput vectorised to loop, wall"] = 1 / vectorised
    flops = recipe.batch_size * step_flops(architecture)
    chosen = chosen_executor(fitter(options).settings, members, flops)
    result["GFLOPs of a member's step"] = flops / 1e9
    result["auto is"] = chosen
    result["ratio auto to the faster, wall"] = (vectorised if chosen == "vectorised" else 1.0) / min(vectorised, 1.0)
    return result | medians(times)
