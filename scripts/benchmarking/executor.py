"""Loop, vectorised and auto on small members, and on larger ones, where the loop is the faster one on a CPU.

Aims: auto at most 1.05 times the loop; on a GPU, vectorised at least 3 times the throughput of the loop for 8 members.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarking.measure import (
    Options,
    Result,
    digits,
    fitter,
    interleaved,
    medians,
    network,
    ratios,
    starts,
    under,
    widened,
)
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training import choice
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe


def run(options: Options) -> Result:
    """Fit members by each executor, as many steps as are the fewest that auto tries its luck with."""
    on_gpu = torch.cuda.is_available()
    repeats = 1 if options.quick else 5 if on_gpu else 3
    steps = 2 if options.quick else choice.SHORTEST
    cases = [(8, 1, 8, "32-true"), (8, 1, 28, "32-true"), (2, 4, 14, "32-true")]
    if on_gpu:
        cases += [(8, 1, 8, "bf16-mixed"), (8, 1, 28, "bf16-mixed")]
    found: Result = {}
    for members, width, size, precision in [(2, 1, 8, "32-true")] if options.quick else cases:
        ways: dict[str, dict[str, object]] = {name: {"executor": name} for name in ("loop", "vectorised", "auto")}
        if on_gpu:
            ways["loop, channels last"] = {"executor": "loop", "channels_last": True}
        architecture, data, recipe = network(size, options=widened(width)), digits(500, size), Recipe(steps)
        begin = starts(architecture, members)

        calls = {}
        for name, way in ways.items():
            ours = fitter(options, precision=precision, **way)
            ours.fit(architecture, begin, data, Recipe(2), "warm")
            calls[name] = partial(fit, ours, architecture, begin, data, recipe)
        times = interleaved(calls, repeats)
        result: Result = {}
        for name in [name for name in ways if name != "loop"]:
            result |= ratios(times, name, "loop")
        result["ratio throughput vectorised to loop, wall"] = 1 / float(result["ratio vectorised to loop, wall"])
        result["auto took"] = ", ".join(choice._chosen.values()) or "loop"
        found |= under(f"{members} members, {width} x as wide, {size} pixels, {precision}", result | medians(times))
    return found


def fit(ours: Fitter, architecture: Architecture, begin: Sequence[Start], data: Split, recipe: Recipe) -> None:
    """Fit members; every fit with auto pays for its own trial."""
    choice._chosen.clear()
    ours.fit(architecture, begin, data, recipe, "benchmark")
