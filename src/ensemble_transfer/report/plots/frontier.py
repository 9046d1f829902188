"""Draw the frontier: accuracy and calibrated NLL against the cost of a transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ensemble_transfer.report.frontier import LEADS, Frontier, Point, frontier_of
from ensemble_transfer.report.plots.style import INK, PAPER, Style, legend_above, strategies
from ensemble_transfer.report.rows import FINE_TUNINGS, Row

RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 0.9,
    "linestyle": "none",
}

NEAR = 0.08
"""Distance of two labels on an axis, as a share of its length, below which they touch."""


def frontier(rows: Sequence[Row], look: Mapping[str, Style]) -> Figure:
    """Draw a line for each strategy, bands of one standard deviation over seeds, and the Pareto front.

    Args:
        rows: Rows of one pair of tasks that had a budget.
        look: Not used: rows of one strategy at several budgets share a style.
    """
    del look
    found = frontier_of(rows)
    assert found is not None  # the figure's plan asks first
    styles = variants(found)
    figure = Figure(figsize=(9.4, 4.6), layout="constrained")
    for axes, (column, _, higher) in zip(figure.subplots(1, len(LEADS)), LEADS, strict=True):
        for strategy in found.strategies:
            _line(axes, found.line(strategy), column, styles[strategy])
        _front(axes, found.pareto(column, higher), column)
        _scale(axes, found)
        _focus(axes, [point.spread(column).mean for point in found.pareto(column, higher)], higher)
        axes.set_xlabel("cost, in full fine-tunings of one member")
        axes.set_ylabel(column)
    handles = [Line2D([], [], label=name, **styles[name].line2d()) for name in found.strategies]
    handles.append(Line2D([], [], label="Pareto front", **RING))
    legend_above(figure, handles)
    return figure


def variants(found: Frontier) -> dict[str, Style]:
    """Return a style for each strategy; variants of one share its colour and marker and differ in line and filling."""
    plain = strategies(name.split(" (")[0] for name in found.strategies)
    met: dict[str, int] = {}
    chosen = {}
    for name in found.strategies:
        style = plain[name.split(" (")[0]]
        variant = met[style.colour] = met.get(style.colour, -1) + 1
        chosen[name] = Style(style.colour, style.marker, ("-", "--", ":", "-.")[variant % 4], variant % 2 == 0)
    return chosen


def _line(axes: Axes, points: Sequence[Point], column: str, style: Style) -> None:
    known = [point for point in points if column in point.numbers and FINE_TUNINGS in point.numbers]
    cost = [point.spread(FINE_TUNINGS).mean for point in known]
    middle = np.array([point.spread(column).mean for point in known])
    spread = np.nan_to_num([point.spread(column).std for point in known])
    axes.plot(cost, middle, **style.line2d())
    axes.fill_between(cost, middle - spread, middle + spread, color=style.colour, alpha=0.12, linewidth=0)


def _front(axes: Axes, points: Sequence[Point], column: str) -> None:
    cost = [point.spread(FINE_TUNINGS).mean for point in points]
    values = [point.spread(column).mean for point in points]
    axes.plot(cost, values, **RING)


def _scale(axes: Axes, found: Frontier) -> None:
    """Give the axis of cost a logarithmic scale with a tick at every budget."""
    axes.set_xscale("log")
    low, high = np.log(axes.get_xlim())
    labels = [f"{budget:g}" for budget in found.budgets]
    for place in range(1, len(labels)):  # one that would touch its neighbour stands a line lower
        near = np.log(found.budgets[place] / found.budgets[place - 1]) < NEAR * (high - low)
        if near and not labels[place - 1].startswith("\n"):
            labels[place] = "\n" + labels[place]
    axes.set_xticks(found.budgets, labels)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_facecolor(PAPER)


def _focus(axes: Axes, front: Sequence[float], higher_is_better: bool) -> None:
    """Show the values of the front and what is near them; what is far worse is cut off."""
    low, high = min(front), max(front)
    span = (high - low) or 0.1 * abs(high)
    below, above = (0.35, 0.1) if higher_is_better else (0.1, 0.35)
    axes.set_ylim(low - below * span, high + above * span)
