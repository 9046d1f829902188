"""Draw quality against cost: differences to the baseline, with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ensemble_transfer.report.baseline import SAME
from ensemble_transfer.report.frontier import Frontier, frontier_of, pareto
from ensemble_transfer.report.plots.charts import plain_logarithmic
from ensemble_transfer.report.plots.frontier import RING, variants
from ensemble_transfer.report.plots.style import INK, Style, legend_above
from ensemble_transfer.report.reference import name_of, of_baseline
from ensemble_transfer.report.rows import CALIBRATED, FINE_TUNINGS, Row
from ensemble_transfer.report.statistics import Difference, paired_difference

LEAST = 1.5
"""Ratio between the ends of the axis of cost, at least: costs that are nearly equal must not look far apart."""

LEAST_HEIGHT = 0.02
"""Span of the axis of a difference, at least."""

FAR = 4.0
"""Marks farther from the baseline than this many times the median of all stand at the edge, with their number."""

APART, WIDEST = 0.035, 0.12
"""Distance of two marks of equal cost, and of all of them, as a share of the axis, at most."""

References = Mapping[str, Row | None]


@dataclass(frozen=True)
class Place:
    """Where a row, or a strategy at a budget, stands in a panel."""

    name: str
    cost: float
    value: float
    difference: Difference


def able(row: Row) -> bool:
    """Return whether a row has what the figure needs; rows of older records have other columns for it."""
    quality, cost = columns([row])
    return row.numbers.keys() >= {"accuracy", quality, cost} and row.values[cost].mean > 0


def columns(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the columns of loss and of cost that all rows have: the calibrated NLL and fine-tunings, if they do."""

    def first(*names: str) -> str:
        return next((name for name in names if all(name in row.numbers for row in rows)), names[-1])

    return first(CALIBRATED, "NLL"), first(FINE_TUNINGS, "GFLOPs")


def compute(rows: Sequence[Row], look: Mapping[str, Style], references: References, narrow: bool = False) -> Figure:
    """Draw the differences of rows to their baseline against cost, with 95% intervals, and the Pareto front.

    Strategies at several budgets are lines; ``few`` then has the number of members that validation prefers.

    Args:
        rows: Rows of one pair of tasks.
        look: Styles by label.
        references: The row that each row is compared with, by label.
        narrow: Whether the panels stand below each other, for a phone.
    """
    frontier, (loss, cost) = frontier_of(rows), columns(rows)
    shape, size = ((2, 1), (4.2, 6.4)) if narrow else ((1, 2), (9.6, 4.3))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    for axes, column in zip(figure.subplots(*shape).flat, (loss, "accuracy"), strict=True):
        higher = column == "accuracy"
        places = _places(rows, references, frontier, (column, cost))
        styles = look if frontier is None else variants(frontier)
        low, high = _scale(axes, [place.cost for place in places])
        spots = dodged([place.cost for place in places], low, high)
        low, high = _focus(axes, [place.difference for place in places])
        for name in dict.fromkeys(place.name for place in places):
            own = [(x, place.difference) for x, place in zip(spots, places, strict=True) if place.name == name]
            _line(axes, [(x, d) for x, d in own if low <= d.mean <= high], styles[name])
            for x, d in own:
                if not low <= d.mean <= high:
                    _at_edge(axes, x, d, styles[name])
        axes.axhline(0, color=INK, linewidth=0.9, zorder=1)
        front = pareto([(place.cost, place.value if higher else -place.value) for place in places])
        seen = [i for i in front if low <= places[i].difference.mean <= high]
        axes.plot([spots[i] for i in seen], [places[i].difference.mean for i in seen], **RING)
        axes.set_xlabel(f"cost ({cost})")
        axes.set_ylabel(f"{column}, minus the baseline's\n({'higher' if higher else 'lower'} is better)")
    names = list(dict.fromkeys(place.name for place in places))
    handles = [Line2D([], [], **styles[name].line2d() | {"linestyle": "none"}, label=name) for name in names]
    legend_above(figure, [*handles, Line2D([], [], **RING, label="Pareto front")])
    return figure


def caption(rows: Sequence[Row], references: References) -> str:
    """Return what the figure's line at zero is, and how to read its marks."""
    names = list(dict.fromkeys(name_of(r) for row in rows if (r := references[row.label]) is not None))
    if frontier_of(rows) is not None and _baseline(rows, references) is None:
        names = ["the best rival of each budget"]
    zero = names[0] if len(names) == 1 else "the row that each is compared with in the table of differences"
    return (
        f"Zero is {zero}. Bars are 95% intervals of the difference, paired by seed; a mark without a bar has no "
        "interval. Ringed: the Pareto front, which no other mean beats at the same cost or less. Costs within 2% are "
        "equal, and their marks stand side by side. A mark that is far off stands at the edge, with its number."
    )


def _places(
    rows: Sequence[Row], references: References, frontier: Frontier | None, names: tuple[str, str]
) -> list[Place]:
    """Return where everything stands whose difference to its reference is known, by the columns of two axes."""
    column, cost = names
    base = _baseline(rows, references)
    if frontier is None:
        own = [(row.label, row.numbers, r.numbers) for row in rows if (r := references[row.label]) is not None]
    elif base is not None:
        own = [(point.strategy, point.numbers, base.numbers) for point in frontier.points]
    else:
        rivals = {budget: frontier.rival(budget, column, column == "accuracy") for budget in frontier.budgets}
        own = [(p.strategy, p.numbers, best.numbers) for p in frontier.points if (best := rivals[p.budget]) is not None]
    found = []
    for name, numbers, reference in own:
        difference = paired_difference(numbers.get(column, {}), reference.get(column, {}))
        if difference is not None and cost in numbers:
            spent, value = (sum(by_seed.values()) / len(by_seed) for by_seed in (numbers[cost], numbers[column]))
            found.append(Place(name, spent, value, difference))
    return found


def _baseline(rows: Sequence[Row], references: References) -> Row | None:
    """Return the baseline, one member fully fine-tuned, of rows that have it."""
    return next((r for row in rows if (r := references[row.label]) is not None and of_baseline(r)), None)


def dodged(costs: Sequence[float], low: float, high: float) -> list[float]:
    """Return where marks stand on a logarithmic axis: those of equal cost (within 2%) side by side, in their order."""
    order = sorted(range(len(costs)), key=lambda index: costs[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and costs[index] <= (1 + SAME) * costs[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    spots = list(costs)
    most = max(map(len, groups))
    step = min(APART, WIDEST / max(most - 1, 1)) * math.log(high / low)
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


def _at_edge(axes: Axes, cost: float, difference: Difference, style: Style) -> None:
    """Draw a mark that is far off at the edge, with its number inside."""
    edge = axes.get_ylim()[difference.mean > 0]
    axes.plot([cost], [edge], **style.line2d() | {"linestyle": "none"}, clip_on=False, zorder=4)
    inward = (0, -13 if difference.mean > 0 else 7)
    axes.annotate(f"{difference.mean:+.2f}", (cost, edge), inward, textcoords="offset points", ha="center", fontsize=8)


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
