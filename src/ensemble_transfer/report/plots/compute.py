"""Draw quality against cost: differences to the baseline, with their intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ensemble_transfer.report.plots.charts import plain_logarithmic
from ensemble_transfer.report.plots.style import INK, Style, legend_above, styles
from ensemble_transfer.report.reference import Frontier, frontier_of, name_of, of_baseline, on_frontier, pareto
from ensemble_transfer.report.rows import CALIBRATED, FINE_TUNINGS, NAMED, SAME, Column, Row, Task
from ensemble_transfer.report.statistics import Difference, paired_difference

LEAST = 1.5
"""Ratio between the ends of the axis of cost, at least: costs that are nearly equal must not look far apart."""

LEAST_HEIGHT = 0.02
"""Span of the axis of a difference, at least."""

FAR = 4.0
"""Marks farther from the baseline than this many times the median of all stand at the edge, with their number."""

APART, WIDEST = 0.035, 0.12
"""Distance of two marks of equal cost, and of all of them, as a share of the axis, at most."""

SPREAD = 1.2
"""Ratio between the costs at which marks of equal cost stand, at most."""

ROOM = 0.08
"""Width of a number at the edge, as a share of the axis."""

RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 0.9,
    "linestyle": "none",
}

References = Mapping[str, Row | None]


@dataclass(frozen=True)
class Place:
    """Where a row, or a strategy at a budget, stands in a panel."""

    name: str
    cost: float
    value: float
    difference: Difference
    field: tuple[Task, frozenset[float | None]]  # task and unit of cost, which marks of one Pareto front share


def columns(rows: Iterable[Row]) -> tuple[str, str, str]:
    """Return what the figure shows: accuracy, loss and cost, by NLL and GFLOPs where an old record has no others."""

    def known(*names: str) -> str:
        return next((name for name in names if all(name in row.numbers for row in rows)), names[-1])

    return "accuracy", known(CALIBRATED, "NLL"), known(FINE_TUNINGS, "GFLOPs")


def able(row: Row) -> bool:
    """Return whether a row has what the figure needs."""
    needed = columns([row])
    return row.numbers.keys() >= set(needed) and row.mean(needed[-1]) > 0


def compute(
    rows: Sequence[Row], look: Mapping[str, Style], references: References, narrow: bool = False, named: bool = False
) -> Figure:
    """Draw the differences of rows to their baseline against cost, with 95% intervals, and the Pareto front.

    Strategies at several budgets are lines; a rival then has the number of members that validation prefers.

    Args:
        rows: Rows of one pair of tasks.
        look: Styles by label.
        references: The row that each row is compared with, by label.
        narrow: Whether the panels stand below each other, for a phone.
        named: Whether the user has named the baseline: then the best rivals of budgets are not it.
    """
    frontier, (accuracy, loss, cost) = None if named else frontier_of(rows), columns(rows)
    if frontier is not None:
        look = styles(list({point.label: point for point in frontier.points}.values()))
    shape, size = ((2, 1), (4.2, 6.4)) if narrow else ((1, 2), (9.6, 4.3))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    for axes, column in zip(figure.subplots(*shape).flat, (NAMED[loss], NAMED[accuracy]), strict=True):
        places = _places(rows, references, frontier, (column, cost))
        _panel(axes, places, look, bool(column.higher_is_better))
        axes.set_xlabel(f"cost ({cost})")
        better = "higher" if column.higher_is_better else "lower"
        axes.set_ylabel(f"difference in {column.name}\n({better} is better)")
    names = dict.fromkeys(place.name for place in places)
    handles = [Line2D([], [], **look[name].line2d() | {"linestyle": "none"}, label=name) for name in names]
    legend_above(figure, [*handles, Line2D([], [], **RING, label="Pareto front")])
    return figure


def caption(rows: Sequence[Row], references: References, named: bool = False) -> str:
    """Return what the figure's line at zero is, and how to read its marks."""
    names = list(dict.fromkeys(name_of(r) for row in rows if (r := references[row.label]) is not None))
    base, left_out = _baseline(rows, references), ""
    if not named and frontier_of(rows) is not None:
        names = names if base else ["the best rival of each budget"]
        others = len(on_frontier(rows)) < len(rows) - (base is not None and base.budget is None)
        left_out = " What had no rival's budget is in the tables alone." if others else ""
    zero = names[0] if len(names) == 1 else "the row that each is compared with in the table of differences"
    return (
        f"Zero is {zero}. Bars are 95% intervals of the difference, paired by seed; a mark without a bar has no "
        "interval. Ringed: the Pareto front, which no other mean beats at the same cost or less. Costs within 2% are "
        "equal, and their marks stand side by side. A mark that is far off stands at the edge, with its number."
    ) + left_out


def _places(
    rows: Sequence[Row], references: References, frontier: Frontier | None, shown: tuple[Column, str]
) -> list[Place]:
    """Return where everything stands whose difference to its reference is known, by a column and that of the cost."""
    column, cost = shown
    base = _baseline(rows, references)
    if frontier is None:
        pairs = [(row, references[row.label]) for row in rows]
    else:
        pairs = [(point, base or frontier.rival(point.budget, column)) for point in frontier.points]
    found = []
    for row, reference in pairs:
        if reference is not None:
            difference = paired_difference(row.numbers[column.name], reference.numbers[column.name])
            if difference is not None:
                found.append(Place(row.label, row.mean(cost), row.mean(column.name), difference, (row.task, row.unit)))
    return found


def _baseline(rows: Sequence[Row], references: References) -> Row | None:
    """Return the baseline, one member fully fine-tuned, of rows that have it and share a seed with it."""
    seeds = {seed for row in on_frontier(rows) for seed in row.seeds}
    found = (r for row in rows if (r := references[row.label]) is not None and of_baseline(r))
    return next((r for r in found if seeds & set(r.seeds)), None)


def _panel(axes: Axes, places: Sequence[Place], look: Mapping[str, Style], higher_is_better: bool) -> None:
    costs = [place.cost for place in places]
    spots = dodged(costs, *_scale(axes, costs))
    low, high = _focus(axes, [place.difference for place in places])
    near = [low <= place.difference.mean <= high for place in places]
    for name in dict.fromkeys(place.name for place in places):
        own = [index for index, place in enumerate(places) if place.name == name]
        _line(axes, [(spots[i], places[i].difference) for i in own if near[i]], look[name])
    far = [index for index, is_near in enumerate(near) if not is_near]
    _at_edges(axes, [(spots[i], places[i].difference.mean, look[places[i].name]) for i in far])
    axes.axhline(0, color=INK, linewidth=0.9, zorder=1)
    sign, seen = 1 if higher_is_better else -1, list[int]()
    for field in dict.fromkeys(place.field for place in places):
        own = [index for index, place in enumerate(places) if place.field == field]
        front = pareto([(places[index].cost, sign * places[index].value) for index in own])
        seen += [own[index] for index in front if near[own[index]]]
    axes.plot([spots[i] for i in seen], [places[i].difference.mean for i in seen], **RING)


def dodged(costs: Sequence[float], low: float, high: float) -> list[float]:
    """Return where marks stand on a logarithmic axis: those of equal cost (within 2%) side by side, in their order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(costs)), key=costs.__getitem__):
        if groups and costs[index] <= (1 + SAME) * costs[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    spots = list(costs)
    gaps, axis = max(max(map(len, groups)) - 1, 1), math.log(high / low)
    step = min(APART * axis, WIDEST * axis / gaps, math.log(SPREAD) / gaps)
    for group in groups:
        for place, index in enumerate(sorted(group)):
            spots[index] = costs[index] * math.exp(step * (place - (len(group) - 1) / 2))
    return spots


def _line(axes: Axes, points: Sequence[tuple[float, Difference]], style: Style) -> None:
    if not points:
        return
    reach = [0.0 if math.isnan(d.low) else d.high - d.mean for _, d in points]
    options = style.line2d() | ({"linestyle": "none"} if len(points) == 1 else {})
    axes.errorbar([x for x, _ in points], [d.mean for _, d in points], reach, elinewidth=1.1, capsize=2.5, **options)


def _at_edges(axes: Axes, marks: Sequence[tuple[float, float, Style]]) -> None:
    """Draw marks that are far off at the edges, with their numbers inside, below each other where marks are close."""
    left, right = axes.get_xlim()
    width = (right / left) ** ROOM
    for above in (False, True):
        edge, groups = axes.get_ylim()[above], list[list[tuple[float, float]]]()
        for cost, value, style in sorted((mark for mark in marks if (mark[1] > 0) == above), key=lambda m: m[0]):
            axes.plot([cost], [edge], **style.line2d() | {"linestyle": "none"}, clip_on=False, zorder=4)
            if groups and cost < width * groups[-1][-1][0]:
                groups[-1].append((cost, value))
            else:
                groups.append([(cost, value)])
        for group in groups:
            numbers = "\n".join(dict.fromkeys(f"{value:+.2f}" for _, value in group))
            place = math.sqrt(group[0][0] * group[-1][0]), edge
            inward, align = ((0, -7), "top") if above else ((0, 7), "bottom")
            axes.annotate(numbers, place, inward, textcoords="offset points", ha="center", va=align, fontsize=8)


def _scale(axes: Axes, costs: Sequence[float]) -> tuple[float, float]:
    """Give the axis of cost a logarithmic scale with a least span and room on both sides, and return its ends."""
    low, high = min(costs), max(costs)
    room = max(1.15, (high / low) ** 0.1, math.sqrt(LEAST * low / high))
    axes.set(xscale="log", xlim=(low / room, high * room))
    plain_logarithmic(axes.xaxis)
    return low / room, high * room


def _focus(axes: Axes, differences: Sequence[Difference]) -> tuple[float, float]:
    """Show zero, and what is not far from it; return the ends of the axis."""
    sizes = sorted(abs(d.mean) for d in differences if d.mean)
    most = max(FAR * sizes[len(sizes) // 2], LEAST_HEIGHT) if sizes else LEAST_HEIGHT
    near = [d for d in differences if abs(d.mean) <= most]
    ends = [end for d in near for end in (d.low, d.high, d.mean, 0.0) if not math.isnan(end)]
    low, high = max(min(ends), -2 * most), min(max(ends), 2 * most)
    room = max(0.1 * (high - low), (LEAST_HEIGHT - (high - low)) / 2)
    axes.set_ylim(low - room, high + room)
    return low - room, high + room
