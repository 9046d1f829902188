"""Charts. Each function draws rows that have its data, in their styles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, log10

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from ensemble_transfer.report.plots.style import (
    GRID,
    INK,
    PAPER,
    Style,
    legend,
    legend_above,
    panels,
    strategies,
    wrapped,
)
from ensemble_transfer.report.rows import Row, lineage

FEW, MANY = 3, 8
"""Ticks that a logarithmic axis has at least and at most."""

Look = Mapping[str, Style]
Curves = tuple[ArrayLike, Sequence[ArrayLike]]
"""Places on an axis, and the values there by seed."""


def plain_logarithmic(axis: Axis) -> None:
    """Label a logarithmic axis with 3 to 8 plain numbers: 1, 2, 5, 10, ..., or powers of 10, or equal steps."""
    low, high = sorted(axis.get_view_interval())
    powers = [10.0**power for power in range(floor(log10(low)), ceil(log10(high)) + 1)]
    ticks = [factor * power for power in powers for factor in (1, 2, 5) if low <= factor * power <= high]
    if len(ticks) > MANY:
        ticks = [power for power in powers if low <= power <= high]
    elif len(ticks) < FEW:
        ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _curves(
    rows: Sequence[Row],
    look: Look,
    names: Mapping[str, str],
    read: Callable[[Row, str], Curves],
    xlabel: str,
) -> Figure:
    """Draw means over seeds with bands of one standard deviation, a panel for each name.

    Args:
        rows: Rows.
        look: Styles by label.
        names: What each panel shows, with the label of its axis.
        read: Returns the curve of a row by name.
        xlabel: Label of the other axis.
    """
    figure, axes = panels(len(names), *{1: (5.0, 3.6), 2: (3.5, 3.1)}.get(len(names), (2.9, 3.1)))
    for panel, (name, ylabel) in zip(axes, names.items(), strict=True):
        for row in rows:
            x, by_seed = read(row, name)
            values, style = np.asarray(by_seed, dtype=float), look[row.label]
            mean = values.mean(axis=0)
            panel.plot(x, mean, **style.line2d(5.5))
            if len(values) > 1:
                std = values.std(axis=0, ddof=1)
                panel.fill_between(x, mean - std, mean + std, color=style.colour, alpha=0.16, linewidth=0)
        if np.asarray(x).dtype.kind == "i":
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set(xlabel=xlabel, ylabel=ylabel)
    legend(figure, rows, look)
    return figure


def learning(rows: Sequence[Row], look: Look) -> Figure:
    """Draw training loss and learning rate by phase, one panel a row and a line a seed.

    Phases are of equal width, whatever steps they take: else a tiny fine-tuning beside long ones could not be read.
    """
    figure, axes = panels(len(rows), 3.6, 2.9, across=3)
    for panel, row in zip(axes, rows, strict=True):
        rates, colour = panel.twinx(), look[row.label].colour
        steps = {phase: curve["step"][-1] + 1 for run in row.runs for phase, curve in run.curves["learning"].items()}
        for run in row.runs:
            for place, (phase, took) in enumerate(steps.items()):
                if curve := run.curves["learning"].get(phase):
                    along = place + np.asarray(curve["step"], dtype=float) / took
                    panel.plot(along, curve["loss"], color=colour, linewidth=1.2, alpha=0.8)
                    rates.plot(along, curve["rate"], color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
            if (held_out := run.metrics.get(MEMBERS_ON_VALIDATION)) is not None:
                panel.plot(len(steps) + 0.05, held_out, marker="o", color=colour, markerfacecolor=PAPER)
        panel.set(title=wrapped(row.label), ylabel="loss (nats, log axis)", yscale="log")
        panel.set_xticks([place + 0.5 for place in range(len(steps))], [f"{p}\n{s:g}" for p, s in steps.items()])
        panel.tick_params("x", length=0, labelsize=7 if len(steps) < CROWDED else 5.5)
        panel.grid(visible=False, axis="x")
        for place in range(1, len(steps)):
            panel.axvline(place, color=GRID, linewidth=0.8)
        plain_logarithmic(panel.yaxis)
        rates.set(ylabel="learning rate (dotted)", ylim=(0, None))
        rates.grid(visible=False)
    return figure


CROWDED = 6
"""Phases from which their names are small."""

MEMBERS_ON_VALIDATION = "target/validation/member/nll"


def diversity(rows: Sequence[Row], look: Look) -> Figure:
    """Draw disagreement against member accuracy: means with bars of one standard deviation, and single seeds."""
    figure, [panel] = panels(1, 5.0, 3.6)
    names = "member accuracy", "disagreement"
    for row in rows:
        style, (x, y) = look[row.label], map(row.spread, names)
        if x.n > 1:
            seeds = [[row.numbers[name][seed] for seed in row.seeds] for name in names]
            panel.plot(*seeds, color=style.colour, marker=".", linestyle="none", markersize=4, alpha=0.45)
        bars = [np.nan_to_num(spread.std) for spread in (y, x)]
        panel.errorbar(x.mean, y.mean, *bars, elinewidth=1, capsize=2, **style.line2d())
    panel.set(xlabel="mean member accuracy", ylabel="disagreement (share of examples)")
    legend(figure, rows, look, line=False)
    return figure


def reliability(rows: Sequence[Row], look: Look) -> Figure:
    """Draw accuracy against confidence, one panel per row: before the temperature and after it."""
    figure, axes = panels(len(rows), 2.3, 2.6)
    for panel, row in zip(axes, rows, strict=True):
        style = look[row.label]
        panel.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        before = replace(style, filled=False).line2d(4) | {"linestyle": "--", "linewidth": 1.0}
        panel.plot(*_pooled(row, "reliability"), **before)
        panel.plot(*_pooled(row, CALIBRATED_CURVE), **replace(style, filled=True).line2d(5))
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=wrapped(row.label), xlabel="confidence")
        panel.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        place = panel.get_subplotspec()
        panel.tick_params(labelleft=place is not None and place.is_first_col())
    axes[0].set_ylabel("accuracy")
    handles = [Line2D([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="--", label="before temperature")]
    handles.append(Line2D([], [], color=INK, marker="o", label="after temperature"))
    legend_above(figure, handles)
    return figure


CALIBRATED_CURVE = "reliability_calibrated"


def _pooled(row: Row, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence and accuracy by bin over all seeds; bins with less than 1% of the examples are left out."""
    curves = [run.curves[name] for run in row.runs]
    count, confidence, accuracy = (
        np.asarray([curve[part] for curve in curves], dtype=float) for part in ("count", "confidence", "accuracy")
    )
    examples = count.sum(axis=0)
    seen = examples >= 0.01 * examples.sum()
    middle, right = (np.nansum(count * part, axis=0) / np.maximum(examples, 1) for part in (confidence, accuracy))
    return middle[seen], right[seen]


def ensemble_size(rows: Sequence[Row], look: Look) -> Figure:
    """Draw accuracy and NLL of subsets of the members against their size, up to the least size of a row's seeds."""

    def read(row: Row, name: str) -> Curves:
        curves = [run.curves["ensemble_size"] for run in row.runs]
        shared = min(len(curve["size"]) for curve in curves)
        return curves[0]["size"][:shared], [curve[name][:shared] for curve in curves]

    names = {"accuracy": "ensemble accuracy", "calibrated_nll": "calibrated NLL (nats)"}
    return _curves(rows, look, names, read, "members")


def corruption(rows: Sequence[Row], look: Look) -> Figure:
    """Draw accuracy, NLL and ECE (means over corruptions) against severity; severity 0 is the clean test split."""
    clean = {"accuracy": "ensemble/accuracy", "nll": "ensemble/nll", "ece": "calibration/ece"}

    def read(row: Row, name: str) -> Curves:
        levels = severities(row)
        keys = [f"target/test/{clean[name]}", *(f"{CORRUPTION}{level}/{name}" for level in levels)]
        return [0, *levels], [[np.nan if (v := run.metrics.get(k)) is None else v for k in keys] for run in row.runs]

    names = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE"}
    return _curves(rows, look, names, read, "severity (0: clean)")


CORRUPTION = "target/test/corruption/mean/"


def severities(row: Row) -> list[int]:
    """Return the severities of corruption that all runs of a row have."""
    parts = [{key.removeprefix(CORRUPTION) for key in run.metrics if key.startswith(CORRUPTION)} for run in row.runs]
    return sorted({int(part.split("/")[0]) for part in set.intersection(*parts)})


def shift_line(rows: Sequence[Row], look: Look) -> Figure:
    """Draw validation loss and accuracy along the shift: 0 before it, 1 after it."""

    def read(row: Row, name: str) -> Curves:
        lines = [run.curves["shift_line"] for run in row.runs]
        return lines[0]["scale"], [line[name] for line in lines]

    names = {"loss": "validation loss (nats, log axis)", "accuracy": "validation accuracy"}
    figure = _curves(rows, look, names, read, "share of the shift (0: before, 1: after)")
    for panel in figure.axes:
        panel.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    figure.axes[0].set_yscale("log")
    plain_logarithmic(figure.axes[0].yaxis)
    return figure


BARRIER, DISTANCE = "source/validation/barrier", "source/diversity/weight_distance"
GAINS = {"no shift": "shift/probe_gain", "a random shift": "shift/probe_gain_over_random"}


def lineages(rows: Sequence[Row]) -> list[str]:
    """Return the lineages of rows as text, without repetition."""
    return list(dict.fromkeys(lineage(run) for row in rows for run in row.runs))


def benefit(rows: Sequence[Row], look: Look) -> Figure:
    """Draw the gain of the shift against the distance of the members, one row of panels per pair of tasks."""
    del look  # a colour means a lineage here
    names = lineages(rows)
    style = strategies(names)
    pairs = list(dict.fromkeys(row.runs[0].dataset for row in rows))
    figure, axes = panels(4 * len(pairs), 2.7, 2.7, across=4)
    for index, panel in enumerate(axes):
        pair, (x, over) = pairs[index // 4], [(x, over) for x in (BARRIER, DISTANCE) for over in GAINS][index % 4]
        panel.axhline(0, color=INK, linewidth=0.8)
        for row in rows:
            for run in row.runs if row.runs[0].dataset == pair else ():
                place = np.array([run.metrics[x], run.metrics[GAINS[over]]], dtype=float)
                panel.plot(*place, **style[lineage(run)].line2d() | {"linestyle": "none"})
        panel.set_xlabel("loss barrier (nats)" if x == BARRIER else "distance of weights")
        panel.set_ylabel(f"gain over {over}")
        panel.set_title(pair, fontsize=8.5)
    handles = [Line2D([], [], **style[name].line2d() | {"linestyle": "none"}, label=name) for name in names]
    legend_above(figure, handles)
    return figure
