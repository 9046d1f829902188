"""The tables of the frontier's page about ``auto``."""

from __future__ import annotations

from itertools import product
from statistics import mean

from frontier_claims import MEASURES, Side, time_of
from frontier_runs import TWO, Runs

from ensemble_transfer.report.rows import CALIBRATED
from ensemble_transfer.report.statistics import Spread, paired_difference
from ensemble_transfer.report.tables import markdown as table

CHOOSING = ("head", "pilot", "choice")
"""The phases of ``auto`` that are there to choose: heads, pilots and looks at validation images."""


def regret(runs: Runs) -> str:
    """Return how far auto is behind the best single strategy, and with wrong rates behind itself.

    ``choosing`` is what heads, pilots and looks cost, in fine-tunings.
    """
    lines = []
    for pair in runs.by_pair:
        for budget, measure in product(runs.budgets(pair), ("accuracy", "calibrated NLL")):
            side, digits = Side(runs, measure), MEASURES[measure].digits
            auto = side.values(pair, {"strategy": "auto"}, budget, ())
            if not auto:
                continue
            against = [side.values(pair, other, budget, auto) for other in ("best", "rule")]
            wrong = [side.values(pair, {"strategy": "auto", "lr": lr}, budget, ()) for lr in (3, 1 / 3)]
            leads = [paired_difference(auto, other) for other in against]
            leads += [paired_difference(own, auto) for own in wrong]
            cells = ["-" if lead is None else lead.text(digits) for lead in leads]
            found = runs.find(pair, {"strategy": "auto"}, budget).values()
            spent = [sum(r.cost["phases"].get(phase, {}).get("fine_tunings", 0.0) for phase in CHOOSING) for r in found]
            took = [time_of(record) / budget for record in found]
            cells += [Spread.of(spent).text(2), Spread.of(took).text(2)]
            lines.append([pair, f"{budget:g}", measure, *cells, str(len(auto))])
    leads_of = ("auto minus the best", "minus the rule", "rate x 3 minus auto", "rate / 3")
    head = ("pair", "budget", "measure", *leads_of, "choosing", "time / budget", "n")
    return table(head, lines) if lines else "No run of `auto` yet."


def taken(runs: Runs) -> str:
    """Return which learning rates ``auto`` took, where its choices are kept, and its lead over two members by them.

    Rates are in those of the recipe as tuned. The runs of a row are those with the same choice, so that rows of one
    pair and budget have different seeds.
    """
    lines = []
    for pair, lr in product(runs.by_pair, (1.0, 3.0, 1 / 3)):
        for budget in runs.budgets(pair):
            spec, rates = {"strategy": "auto", "lr": lr}, dict[int, list[float]]()
            for seed, record in runs.find(pair, spec, budget).items():
                if choice := record.curves.get("choice"):
                    rates[seed] = [rate / runs.rates[pair] for rate in choice["lr"]]
            sides = [Side(runs, measure) for measure in ("accuracy", CALIBRATED)]
            both = [[side.values(pair, own, budget, ()) for own in (spec, TWO)] for side in sides]
            for own in sorted({tuple(sorted({*each})) for each in rates.values()}):
                seeds = [seed for seed, each in rates.items() if {*own} == {*each}]
                known = all(seed in two for _, two in both for seed in seeds)
                leads = [f"{mean(auto[s] - two[s] for s in seeds):+.3f}" if known else "-" for auto, two in both]
                cells = [", ".join(f"{rate:.2g}" for rate in own), str(len(seeds))]
                fitted = Spread.of([len(rates[seed]) for seed in seeds]).text(1)
                lines.append([pair, f"{lr:.2g}", f"{budget:g}", *cells, fitted, *leads])
    head = ("pair", "rate given", "budget", "rates taken", "runs", "members fine-tuned", "accuracy", "calibrated NLL")
    return table(head, lines) if lines else "No choice of `auto` is kept."
