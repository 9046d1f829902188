"""Draw the figures of a comparison from records, as ``.svg`` and ``.png``.

The same records give the same SVG, byte for byte.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ensemble_transfer.report.confusion import best_of_each_strategy
from ensemble_transfer.report.plots import charts, compute
from ensemble_transfer.report.plots.style import RC, Style, save, styles
from ensemble_transfer.report.reference import references
from ensemble_transfer.report.rows import CALIBRATED, NAMED, WORTH, Row


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
        across: Whether rows of different tasks may share the figure. It then shows all rows, however many there are; in
            other figures of many rows each strategy has its best.
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
    """A figure on disk, as ``svg`` and as a ``.png`` of the same name; ``narrow`` is an SVG for phones, if any."""

    title: str
    caption: str
    alt: str
    svg: Path
    narrow: Path | None = None


def _with_columns(*names: str) -> Callable[[Row], bool]:
    return lambda row: row.numbers.keys() >= set(names)


def _with_curves(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(run.curves.get(name) for run in row.runs for name in names)


def _with_line(row: Row) -> bool:
    scales = [(run.curves.get("shift_line") or {}).get("scale") for run in row.runs]
    return bool(scales[0]) and all(scale == scales[0] for scale in scales)


def _diagnosed(row: Row) -> bool:
    needed = charts.BARRIER, charts.DISTANCE, *charts.GAINS.values()
    kept = row.settings.get("strategy.direction", "donor") == "donor"
    return kept and all(run.metrics.get(key) is not None for run in row.runs for key in needed)


PLANS = (
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
        "ensemble_size",
        "Accuracy and calibrated NLL against ensemble size",
        "Mean over subsets of the members, then over seeds. Bands show one standard deviation over seeds. Where seeds "
        "have different numbers of members, the line ends at the smallest.",
        ("accuracy", CALIBRATED, WORTH),
        lambda row: all((run.curves.get("ensemble_size") or {}).get("size") for run in row.runs),
        charts.ensemble_size,
    ),
    Plan(
        "learning",
        "Learning curves",
        "Training loss by phase, each with its number of steps: the mean over the members that it trains, a line for "
        "each seed. A phase with a number trains members again, or for another number of steps. Dotted: the learning "
        "rate. The ring is the members' loss on validation at the end; far above the line, they know the training "
        "images by heart.",
        ("accuracy", "member accuracy"),
        _with_curves("learning"),
        charts.learning,
    ),
    Plan(
        "reliability",
        "Reliability",
        "Accuracy against confidence in 15 bins, over all seeds, before and after temperature scaling. Above the "
        "dotted line the ensemble is underconfident, below it overconfident. Bins with less than 1% of the examples "
        "are left out.",
        ("ECE",),
        _with_curves("reliability", "reliability_calibrated"),
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
        enough=lambda rows: len(charts.lineages(rows)) > 1,
        across=True,
    ),
)


MANY = 10
"""Rows, at most, that a figure can tell apart."""


def draw(rows: Sequence[Row], folder: Path, across: bool = False, baseline: str | None = None) -> list[Drawn]:
    """Draw all figures that the records have data for into a folder, created if missing.

    Quality against cost comes first. Files of figures that can no longer be drawn are removed. Rows of different tasks,
    ``across``, are shown by some figures only. ``baseline`` is the label or strategy that a comparison has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    look = styles(rows)
    with matplotlib.rc_context(RC):
        found = [_compute([] if across else rows, folder / "compute.svg", look, baseline)]
        found += [_drawn(plan, rows if plan.across or not across else [], folder, look) for plan in PLANS]
    return [drawn for drawn in found if drawn is not None]


def _compute(rows: Sequence[Row], svg: Path, look: Mapping[str, Style], baseline: str | None) -> Drawn | None:
    """Draw quality against cost, in two layouts."""
    title, narrow, named = "Quality against cost", svg.with_stem("compute_narrow"), baseline is not None
    _clear(svg, narrow)
    found = references(rows, baseline)
    able = [row for row in rows if compute.able(row) and ((r := found[row.label]) is None or compute.able(r))]
    if not any((r := found[row.label]) is not None and r is not row for row in able):
        return None
    save(compute.compute(able, look, found, named=named), svg)
    save(compute.compute(able, look, found, narrow=True, named=named), narrow)
    caption = _with_missing(compute.caption(able, found, named), rows, able)
    return Drawn(title, caption, _alt(title, compute.columns(able), able), svg, narrow)


def _drawn(plan: Plan, rows: Sequence[Row], folder: Path, look: Mapping[str, Style]) -> Drawn | None:
    svg = folder / f"{plan.name}.svg"
    _clear(svg)
    able = [row for row in rows if plan.able(row)]
    if not able or not plan.enough(able):
        return None
    caption = _with_missing(plan.caption, rows, able)
    if not plan.across and len(able) > MANY:
        able = best_of_each_strategy(able)[:MANY]
        caption += " Each strategy is shown where its calibrated NLL is lowest."
    save(plan.draw(able, look), svg)
    return Drawn(plan.title, caption, _alt(plan.title, plan.columns, able), svg)


def _clear(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        path.with_suffix(".png").unlink(missing_ok=True)


def _with_missing(caption: str, rows: Sequence[Row], able: Sequence[Row]) -> str:
    """Return a caption that names the rows whose records lack what the figure shows."""
    shown = {row.label for row in able}
    missing = [row.label for row in rows if row.label not in shown]
    if len(missing) > MANY:
        return f"{caption} {len(missing)} rows lack the numbers."
    return f"{caption} Without the numbers for it: {', '.join(missing)}." if missing else caption


def _alt(title: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the alternative text of a figure: its title and the numbers of each row."""
    parts = []
    for row in rows:
        numbers = [f"{name} {row.text(NAMED[name])}" for name in columns if name in row.numbers]
        parts.append(f"{row.label}: {', '.join(numbers)}" if numbers else row.label)
    return f"{title}. {'; '.join(parts)}."
