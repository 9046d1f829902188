"""Members over processes: a fit of eight members by 1, 2 and 4 workers, and the source ensemble of the main job.

For the fit, workers are alive before the clock starts, as in a run after its first phase; what starting them takes is a
row of its own. CPU seconds are those of all workers, from the ledger. The source ensemble starts without workers: they
import while its ancestor trains, by one process either way; the ratio is that of what comes after it. Aims on 2 cores:
at most 0.6 and 0.55 of one process's wall seconds.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import partial

from measure import Options, Result, digits, fitter, network, same, starts

from ensemble_transfer import Digits, EnsembleSettings, train_source
from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.training.fit import Fits
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.workers import close_workers, start_workers

MEMBERS = 8


def run(options: Options) -> Result:
    """Fit eight members of the default net by more and more workers, in turn; 1 is this process alone."""
    repeats, recipe = (1, Recipe(2)) if options.quick else (3, Recipe(150))
    numbers = (1, 2) if options.quick else (1, 2, 4)
    architecture, task = network(), digits(64 if options.quick else 500)
    begin = starts(architecture, 2 if options.quick else MEMBERS)
    found: Result = {}
    started = time.perf_counter()
    start_workers(numbers[-1])
    warm = {n: partial(fitter(options, workers=n).fit, architecture, begin, task) for n in numbers}
    for fit in warm.values():
        fit(Recipe(1), "warm")
    found["starting all workers, wall s"] = time.perf_counter() - started

    walls: dict[int, list[float]] = {n: [] for n in numbers}
    fits: dict[int, Fits] = {}
    for _ in range(repeats):
        for n, fit in warm.items():
            started = time.perf_counter()
            fits[n] = fit(recipe, "benchmark")
            walls[n].append(time.perf_counter() - started)
    close_workers()
    found |= _source(options, repeats)
    for n in numbers:
        found[f"{n} workers, wall s"] = statistics.median(walls[n])
        found[f"{n} workers, CPU s"] = sum(fitted.cost.cpu_seconds for fitted in fits[n].fitted)
        if n > 1:
            pairs = zip(walls[n], walls[1], strict=True)
            found[f"ratio {n} workers to 1, wall"] = statistics.median(a / b for a, b in pairs)
            found[f"{n} workers, same weights as 1"] = float(same(fits[n].weights, fits[1].weights))
    return found


def _source(options: Options, repeats: int) -> Result:
    """Train the source ensemble of the main job by one process and by two that start with it, in turn."""
    recipes = preset_object("recipe", "default")
    if options.quick:
        recipes = replace(recipes, ancestor=Recipe(2), source=Recipe(2))
    backbone, task = preset_object("backbone", "small_resnet"), Digits().load(28, 1)
    settings, pairs = EnsembleSettings(2 if options.quick else MEMBERS), []
    for _ in range(repeats):
        walls, ancestor = [], 0.0
        for number in (1, 2):
            started = time.perf_counter()
            ledger = train_source(settings, backbone, task, 0, recipes, fitter(options, workers=number))[1]
            ancestor = ancestor or ledger.by_phase()["ancestor"].seconds
            walls.append(time.perf_counter() - started - ancestor)
            close_workers()
        pairs.append(walls)
    return {
        "source ensemble after its ancestor, 1 process, wall s": statistics.median(one for one, _ in pairs),
        "source ensemble after its ancestor, ratio 2 workers to 1, wall": statistics.median(b / a for a, b in pairs),
    }
