"""The figures of a study, as SVG and PNG; a colour and marker is a strategy, as in every comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ensemble_transfer.report.plots.style import INK, RC, Style, band, panels, save, strategies
from study_reporting.runs import Study

Look = Mapping[str, Style]


def draw(study: Study, folder: Path) -> dict[str, str]:
    """Draw what the runs allow; return captions by file name, without the ending."""
    folder.mkdir(parents=True, exist_ok=True)
    plans: dict[str, tuple[str, Callable[[Study, Look], Figure | None]]] = {
        "accuracy": ("Ensemble accuracy against the number of members.", _against("accuracy", "M")),
        "accuracy_flops": (
            "Ensemble accuracy against the whole compute of a transfer.",
            _against("accuracy", "GFLOPs"),
        ),
        "nll_flops": ("Calibrated NLL against the whole compute of a transfer.", _against("calibrated NLL", "GFLOPs")),
        "shift_minus_matched": (
            "Accuracy of `shift` minus that of `matched`, which spends the same compute: mean of the differences "
            "paired by seed, with 95% intervals. Right of the line the shift is better.",
            _differences,
        ),
        "room": (
            "What decides: `shift` minus `matched` against `full` minus `matched`, points of ensemble accuracy, means "
            "over seeds; the number is that of members. To the left a schedule as short as that of `matched` is enough "
            "and there is nothing for a shift to win; on the dotted line `shift` reaches `full`.",
            _room,
        ),
        "disagreement": (
            "Disagreement between members as a share of their error: diversity at equal member accuracy.",
            _against("normalised disagreement", "M"),
        ),
        "shift_line": (
            "Validation loss of recipients on the line from before (0) to after the shift (1), under the donor's head.",
            _line,
        ),
    }
    drawn = {}
    look = _look(study.strategies)
    with matplotlib.rc_context(RC):
        for name, (caption, plan) in plans.items():
            figure = plan(study, look)
            for kind in ("svg", "png"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
            if figure is not None:
                save(figure, folder / f"{name}.svg")
                drawn[name] = caption
    return drawn


def _look(names: list[str]) -> Look:
    """Return the styles of strategies; one with an option has the colour of the one without, and is hollow."""
    known = strategies(name.split(" (")[0] for name in names)
    return {
        name: replace(known[base], line="--", filled=False) if (base := name.split(" (")[0]) != name else known[name]
        for name in names
    }


def _against(y: str, x: str) -> Callable[[Study, Look], Figure | None]:
    """Return what draws a number against another by strategy, a panel for each pair, with bands of std over seeds."""

    def plan(study: Study, look: Look) -> Figure | None:
        if study.frame[y].isna().all():
            return None
        figure, axes = panels(len(study.pairs), 3.1, 3.0)
        for panel, pair in zip(axes, study.pairs, strict=True):
            of_pair = study.frame[study.frame["dataset"] == pair]
            for strategy in study.strategies:
                _curve(panel, of_pair[of_pair["strategy"] == strategy], x, y, look[strategy])
            panel.set(title=pair, xlabel="members" if x == "M" else "compute in all (GFLOPs)")
            panel.set_xscale("log")
            if x == "M":
                panel.set_xticks(study.sizes(pair), [str(size) for size in study.sizes(pair)])
                panel.xaxis.set_minor_locator(NullLocator())
            else:
                _plain(panel)
        axes[0].set_ylabel(y if y == "normalised disagreement" else f"ensemble {y}")
        _legend(figure, look)
        return figure

    return plan


def _curve(panel: Axes, runs: pd.DataFrame, x: str, y: str, style: Style) -> None:
    by_size = runs.dropna(subset=[x, y]).groupby("M")
    if not len(by_size):
        return
    mean, std = by_size[[x, y]].mean(), by_size[y].std()
    panel.plot(mean[x], mean[y], **style.line2d())
    panel.fill_between(mean[x], mean[y] - std, mean[y] + std, color=style.colour, alpha=0.16, linewidth=0)


def _plain(panel: Axes) -> None:
    """Label a logarithmic axis with plain numbers."""
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, look: Look) -> None:
    handles = [Line2D([], [], **style.line2d(), label=name) for name, style in look.items()]
    across = max(1, min(len(handles), int(0.9 * figure.get_figwidth())))
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(handles) // across) - 1))
    figure.legend(handles=handles, loc="outside upper center", ncols=across)


def _differences(study: Study, look: Look) -> Figure | None:
    places = [(pair, size) for pair in study.pairs for size in reversed(study.sizes(pair))]
    found = [(p, m, study.difference(p, m, ("shift", "matched"), "accuracy")) for p, m in places]
    known = [(pair, size, difference) for pair, size, difference in found if difference is not None]
    if not known:
        return None
    figure, [panel] = panels(1, 6.0, 1.1 + 0.26 * len(known))
    style = look["shift"]
    for place, (_, _, difference) in enumerate(known):
        if np.isfinite(difference.low):
            panel.plot([100 * difference.low, 100 * difference.high], [place, place], color=style.colour)
        panel.plot(100 * difference.mean, place, **style.line2d() | {"linestyle": "none"})
    panel.axvline(0, color=INK, linewidth=0.8)
    panel.axvline(2, color=INK, linewidth=0.8, linestyle=":")
    panel.annotate("aim", (2, 1), (2, -8), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    labels = [f"{pair}, M={size} (n={difference.n})" for pair, size, difference in known]
    panel.set(yticks=range(len(known)), yticklabels=labels, xlabel="shift - matched, points of ensemble accuracy")
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    return figure


def _room(study: Study, look: Look) -> Figure | None:
    del look  # a colour is a pair here, and the strategies are on the axes
    figure, [panel] = panels(1, 5.2, 3.8)
    colours = iter(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"])
    for pair in study.pairs:
        points = []
        for size in study.sizes(pair):
            found = [study.difference(pair, size, (s, "matched"), "accuracy") for s in ("full", "shift")]
            if None not in found:
                points.append((size, *(100 * d.mean for d in found if d is not None)))
        if points:
            _sizes, room, won = zip(*points, strict=True)
            panel.plot(room, won, "o-", color=next(colours), label=pair)
            for size, *place in points:
                panel.annotate(str(size), place, (4, 3), textcoords="offset points", fontsize=8)
    if not panel.lines:
        return None
    low, high = min(0.0, panel.get_xlim()[0]), max(0.0, panel.get_xlim()[1])
    panel.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":")
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.set(xlabel="full - matched, points of accuracy", ylabel="shift - matched, points of accuracy")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _line(study: Study, look: Look) -> Figure | None:
    lines: dict[str, list[Mapping[str, list[float]]]] = {}
    for record in study.finished.values():
        line = record.curves.get("shift_line")
        largest = record.ensemble["size"] == study.sizes(record.dataset)[-1]
        if record.strategy == "shift" and largest and line and line["scale"]:
            lines.setdefault(record.dataset, []).append(line)
    if not lines:
        return None
    figure, axes = panels(len(lines), 3.1, 2.8)
    for panel, (pair, own) in zip(axes, lines.items(), strict=True):
        alike = [line for line in own if line["scale"] == own[0]["scale"]]
        band(panel, own[0]["scale"], [line["loss"] for line in alike], look["shift"])
        panel.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        panel.set(title=pair, xlabel="share of the shift")
    axes[0].set_ylabel("validation loss (nats)")
    return figure
