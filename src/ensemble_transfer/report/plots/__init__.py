"""The figures of a comparison, drawn from records alone, as ``.svg`` and ``.png``.

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
from ensemble_transfer.report.plots.style import RC, Style, styles
from ensemble_transfer.report.rows import CALIBRATED, FULLS, WORTH, WORTH_PER_FULL, Row


@dataclass(frozen=True)
class Plan:
    """A figure that could be drawn.

    Attributes:
        name: Of its files.
        title: Heading.
        caption: What it shows and how to read it.
        columns: Whose numbers the text for those who cannot see it gives.
        able: Whether a row has what it takes.
        draw: Draws rows in their styles.
        enough: Whether those that are able say something together.
        across: Whether rows of different tasks may stand in it.
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
    """A figure on disk: ``svg``, and a ``.png`` of the same name beside it."""

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
        ("accuracy", CALIBRATED, FULLS, WORTH_PER_FULL),
        lambda row: budget_of(row) is not None and _with_columns("accuracy", CALIBRATED, FULLS)(row),
        frontier,
        enough=lambda rows: frontier_of(rows) is not None,
    ),
    Plan(
        "compute",
        "Accuracy and NLL against compute",
        "Large marks: mean over seeds, bars of one standard deviation; dots: single seeds. Ringed and joined: the "
        "Pareto front, which no other row beats at the same compute or less.",
        ("accuracy", "NLL", "GFLOPs"),
        lambda row: _with_columns("accuracy", "NLL", "GFLOPs")(row) and row.values["GFLOPs"].mean > 0,
        charts.compute,
    ),
    Plan(
        "diversity",
        "Diversity against member accuracy",
        "Diversity is worth having at the same member accuracy: higher at the same place to the right is better; "
        "upwards to the left is diversity bought with worse members.",
        ("member accuracy", "disagreement", "normalised disagreement"),
        _with_columns("member accuracy", "disagreement"),
        charts.diversity,
    ),
    Plan(
        "accuracy_rejection",
        "Accuracy with rejection",
        "Accuracy on the examples that remain when the least confident are set aside; bands of one standard deviation "
        "over seeds.",
        ("accuracy", "AURC"),
        _with_curve("accuracy_rejection"),
        charts.rejection,
    ),
    Plan(
        "ensemble_size",
        "Accuracy and calibrated NLL against ensemble size",
        "Mean over subsets of the members, then over seeds; bands of one standard deviation over seeds.",
        ("accuracy", "calibrated NLL", WORTH),
        _alike,
        charts.ensemble_size,
    ),
    Plan(
        "reliability",
        "Reliability",
        "Accuracy against confidence in 15 bins, before temperature scaling; thin lines are single seeds, the marked "
        "line pools them. Above the dots is underconfident, below overconfident. Bins with under 1% of the examples "
        "are left out.",
        ("ECE",),
        _with_curve("reliability"),
        charts.reliability,
    ),
    Plan(
        "corruption",
        "Under corruption",
        "Mean over corruptions by severity; bands of one standard deviation over seeds.",
        ("accuracy",),
        lambda row: bool(charts.severities(row)),
        charts.corruption,
    ),
    Plan(
        "cost",
        "Cost by phase",
        "Mean over seeds; the donor's full fine-tuning counts. Fits from the store count with the cost of the real "
        "fit. FLOPs depend on nothing but the work, seconds also on the machine.",
        ("GFLOPs", "seconds"),
        lambda row: all(run.cost.get("phases") for run in row.runs),
        charts.phases,
    ),
    Plan(
        "disagreement",
        "Disagreement between members",
        "Share of test examples that two members classify differently, mean over seeds; one colour scale for all.",
        ("disagreement",),
        lambda row: _with_curve("disagreement")(row) and len({len(r.curves["disagreement"]) for r in row.runs}) == 1,
        charts.matrices,
    ),
    Plan(
        "shift_line",
        "Loss along the shift",
        "Validation loss and accuracy of recipients on the straight line from before to after the shift and beyond, "
        "under the donor's head, without any fine-tuning; bands of one standard deviation over seeds.",
        ("accuracy",),
        _with_line,
        charts.shift_line,
    ),
    Plan(
        "lineage",
        "What the shift gains, by lineage",
        "A point is a run: the validation accuracy of a probed head after the shift, less that without a shift or "
        "after a random one of the same length, against how far apart the source members are: the loss barrier between "
        "them (0 where they share a basin), and the distance of their weights. Above the line the shift helps.",
        ("accuracy",),
        _diagnosed,
        charts.benefit,
        lambda rows: len(charts.lineages(rows)) > 1,
        across=True,
    ),
)


def draw(rows: Sequence[Row], folder: Path, across: bool = False) -> list[Drawn]:
    """Draw what the records allow as ``.svg`` and ``.png`` into a folder, which is made if missing.

    Figures of an earlier drawing that can no longer be drawn are removed.

    Args:
        rows: The rows.
        folder: Where to.
        across: Whether rows are of different tasks, which only some figures bear.
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
            figure = plan.draw(able, styles(rows))
            figure.savefig(svg, metadata={"Date": None})
            figure.savefig(svg.with_suffix(".png"), dpi=150)
            drawn.append(Drawn(plan.title, plan.caption, _alt(plan, able), svg))
    return drawn


def _alt(plan: Plan, rows: Sequence[Row]) -> str:
    """Say a figure in words: what it shows, and each row's numbers in it."""
    said = []
    for row in rows:
        numbers = [f"{name} {row.values[name].text(3)}" for name in plan.columns if name in row.numbers]
        said.append(f"{row.label}: {', '.join(numbers)}" if numbers else row.label)
    return f"{plan.title}. {'; '.join(said)}."
