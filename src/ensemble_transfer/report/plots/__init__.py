"""Draw the figures of a comparison from records, as ``.svg`` and ``.png``.

The same records give the same SVG, byte for byte.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ensemble_transfer.report.frontier import budget_of, frontier_of
from ensemble_transfer.report.plots import charts
from ensemble_transfer.report.plots.frontier import frontier
from ensemble_transfer.report.plots.style import RC, Style, save, styles
from ensemble_transfer.report.rows import CALIBRATED, FINE_TUNINGS, WORTH, WORTH_PER_COST, Row


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn if the records have its data.

    Attributes:
        name: Name of its files.
        title: Heading.
        caption: Text below the figure: what it shows and how to read it.
        columns: Columns whose numbers go into the alternative text.
        able: Returns whether a row has the data.
        draw: Draws rows in their styles.
        enough: Returns whether the rows that have the data are worth a figure.
        across: Whether rows of different tasks may share the figure.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    able: Callable[[Row], bool]
    draw: Callable[[Sequence[Row], Mapping[str, Style]], Figure]
    enough: Callable[[Sequence[Row]], bool] = bool
    across: bool = False


@dataclass(frozen=True)
class Drawn:
    """A figure on disk, as ``svg`` and as a ``.png`` of the same name."""

    title: str
    caption: str
    alt: str
    svg: Path


def _with_columns(*names: str) -> Callable[[Row], bool]:
    return lambda row: row.numbers.keys() >= set(names)


def _with_curve(name: str) -> Callable[[Row], bool]:
    return lambda row: all(run.curves.get(name) for run in row.runs)


def _with_line(row: Row) -> bool:
    scales = [(run.curves.get("shift_line") or {}).get("scale") for run in row.runs]
    return bool(scales[0]) and all(scale == scales[0] for scale in scales)


def _diagnosed(row: Row) -> bool:
    needed = charts.BARRIER, charts.DISTANCE, *charts.GAINS.values()
    kept = row.settings.get("strategy.direction", "donor") == "donor"
    return kept and all(run.metrics.get(key) is not None for run in row.runs for key in needed)


def _alike(row: Row) -> bool:
    sizes = [(run.curves.get("ensemble_size") or {}).get("size") for run in row.runs]
    return bool(sizes[0]) and all(size == sizes[0] for size in sizes)


PLANS = (
    Plan(
        "frontier",
        "What a budget buys",
        "Lines: strategies at their budgets, mean over seeds, bands of one standard deviation; `few` has the number of "
        "members that validation prefers at each budget and seed. Ringed: the Pareto front, which no other point beats "
        "at the same cost or less. Far worse points are cut off.",
        ("accuracy", CALIBRATED, FINE_TUNINGS, WORTH_PER_COST),
        lambda row: budget_of(row) is not None and _with_columns("accuracy", CALIBRATED, FINE_TUNINGS)(row),
        frontier,
        enough=lambda rows: frontier_of(rows) is not None,
    ),
    Plan(
        "compute",
        "Accuracy and NLL against compute",
        "Large marks are means over seeds, with bars of one standard deviation; dots are single seeds. The ringed and "
        "joined marks form the Pareto front: no other row is better at the same compute or less.",
        ("accuracy", "NLL", "GFLOPs"),
        lambda row: _with_columns("accuracy", "NLL", "GFLOPs")(row) and row.values["GFLOPs"].mean > 0,
        charts.compute,
    ),
    Plan(
        "diversity",
        "Diversity against member accuracy",
        "Compare disagreement at equal member accuracy: there, higher is better. Marks to the upper left disagree more "
        "because their members are worse.",
        ("member accuracy", "disagreement", "normalised disagreement"),
        _with_columns("member accuracy", "disagreement"),
        charts.diversity,
    ),
    Plan(
        "accuracy_rejection",
        "Accuracy with rejection",
        "Accuracy on the remaining examples after the least confident are rejected. Bands show one standard deviation "
        "over seeds.",
        ("accuracy", "AURC"),
        _with_curve("accuracy_rejection"),
        charts.rejection,
    ),
    Plan(
        "ensemble_size",
        "Accuracy and calibrated NLL against ensemble size",
        "Mean over subsets of the members, then over seeds. Bands show one standard deviation over seeds.",
        ("accuracy", "calibrated NLL", WORTH),
        _alike,
        charts.ensemble_size,
    ),
    Plan(
        "reliability",
        "Reliability",
        "Accuracy against confidence in 15 bins, before temperature scaling. Thin lines are single seeds, the marked "
        "line pools them. Above the dotted line the ensemble is underconfident, below it overconfident. Bins with less "
        "than 1% of the examples are left out.",
        ("ECE",),
        _with_curve("reliability"),
        charts.reliability,
    ),
    Plan(
        "corruption",
        "Under corruption",
        "Mean over corruptions by severity. Bands show one standard deviation over seeds.",
        ("accuracy",),
        lambda row: bool(charts.severities(row)),
        charts.corruption,
    ),
    Plan(
        "cost",
        "Cost by phase",
        "Mean over seeds, including the donor's full fine-tuning. A fit from the store counts with the cost of its "
        "original computation. FLOPs depend only on the work; seconds also depend on the machine.",
        ("GFLOPs", "seconds"),
        lambda row: all(run.cost.get("phases") for run in row.runs),
        charts.phases,
    ),
    Plan(
        "disagreement",
        "Disagreement between members",
        "Share of test examples that two members classify differently, mean over seeds. All panels share one colour "
        "scale.",
        ("disagreement",),
        lambda row: _with_curve("disagreement")(row) and len({len(r.curves["disagreement"]) for r in row.runs}) == 1,
        charts.matrices,
    ),
    Plan(
        "shift_line",
        "Loss along the shift",
        "Validation loss and accuracy of recipients along the shift, before any fine-tuning and with the donor's head: "
        "0 is before the shift, 1 after it. Bands show one standard deviation over seeds.",
        ("accuracy",),
        _with_line,
        charts.shift_line,
    ),
    Plan(
        "lineage",
        "What the shift gains, by lineage",
        "Each mark is a run. Upwards: validation accuracy of a probed head after the shift, minus the same without a "
        "shift or after a random shift of the same length; above the line the shift helps. To the right: how far apart "
        "the source members are, as the loss barrier between them (0 in one basin) or the distance of their weights.",
        ("accuracy",),
        _diagnosed,
        charts.benefit,
        lambda rows: len(charts.lineages(rows)) > 1,
        across=True,
    ),
)


def draw(rows: Sequence[Row], folder: Path, across: bool = False) -> list[Drawn]:
    """Draw all figures that the records have data for into a folder, created if missing.

    Files of figures that can no longer be drawn are removed.

    Args:
        rows: Rows of the comparison.
        folder: Folder of the figures.
        across: Whether the rows belong to different tasks, which only some figures can show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(RC):
        for plan in PLANS:
            svg = folder / f"{plan.name}.svg"
            able = [row for row in rows if plan.able(row)]
            for path in (svg, svg.with_suffix(".png")):
                path.unlink(missing_ok=True)
            if not plan.enough(able) or (across and not plan.across):
                continue
            save(plan.draw(able, styles(rows)), svg)
            drawn.append(Drawn(plan.title, plan.caption, _alt(plan, able), svg))
    return drawn


def _alt(plan: Plan, rows: Sequence[Row]) -> str:
    """Return the alternative text of a figure: its title and the numbers of each row."""
    parts = []
    for row in rows:
        numbers = [f"{name} {row.values[name].text(3)}" for name in plan.columns if name in row.numbers]
        parts.append(f"{row.label}: {', '.join(numbers)}" if numbers else row.label)
    return f"{plan.title}. {'; '.join(parts)}."
