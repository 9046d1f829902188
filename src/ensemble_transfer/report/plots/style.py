"""Style of the figures: each strategy has the same colour and marker everywhere. Helpers that charts share.

The colours are those of Okabe and Ito, safe for colour blindness, darker or lighter until each has a contrast of 3 to 1
with the page in its light and in its dark palette. Markers and line styles repeat the distinction for print
without colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any
from zlib import crc32

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ensemble_transfer.report.rows import BASELINE, Row

INK, GRID, PAPER = "#1b1d22", "#d8dae0", "#ffffff"
ACROSS = 5
"""Maximum number of panels side by side."""
_KNOWN = {
    "full": ("#0072B2", "o"),
    "shift": ("#D55E00", "D"),
    "tiny": ("#009E73", "^"),
    "head": ("#C46A9C", "v"),
    "star": ("#2A8FC9", "p"),
    "random_shift": ("#7A7A7A", "X"),
    "zero_shot": ("#A65E1A", "P"),
    "few": ("#1b1d22", "h"),
    "snapshots": ("#A67C00", "s"),
    BASELINE: ("#7A7A7A", "8"),
    "auto": ("#8A63D2", "*"),
    "turns": ("#B453A4", "d"),
}
"""Looks of known strategies, the same in all that was published; any other gets one of the others by its name."""
_OTHERS = [(c, m) for m, c in product("PX*<>hp", ["#2A8FC9", "#7A7A7A", *(colour for colour, _ in _KNOWN.values())])]
RC: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
) | {
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "figure.facecolor": PAPER,
    "font.size": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 6.0,
    "svg.hashsalt": "ensemble_transfer",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Style:
    """Style of a row. Rows of one strategy, but the baseline, share colour and marker; they differ in line and fill."""

    colour: str
    marker: str
    line: str
    filled: bool

    def line2d(self, size: float = 6.0) -> dict[str, Any]:
        """Return the keyword arguments of matplotlib's ``Line2D``.

        Args:
            size: Of the marker, in points; a star, which is mostly edge, is drawn larger.
        """
        face, edge = (self.colour, PAPER) if self.filled else (PAPER, self.colour)
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": size * (1.7 if self.marker == "*" else 1.0),
            "linestyle": self.line,
            "markerfacecolor": face,
            "markeredgecolor": edge,
            "markeredgewidth": 0.7 if self.filled else 1.2,
        }


def strategies(names: Iterable[str]) -> dict[str, Style]:
    """Return the style of each strategy by name; it does not depend on the other strategies, as far as possible."""
    chosen: dict[str, tuple[str, str]] = dict(_KNOWN)
    wanted = list(dict.fromkeys(names))
    for name in sorted(set(wanted) - chosen.keys()):
        first = crc32(name.encode()) % len(_OTHERS)
        turned = [*_OTHERS[first:], *_OTHERS[:first]]
        chosen[name] = next((style for style in turned if style not in chosen.values()), turned[0])
    return {name: Style(*chosen[name], "-", filled=True) for name in wanted}


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """Return the style of each row by label."""
    names = [BASELINE if row.label.split(" ")[0] == BASELINE else row.strategy for row in rows]
    chosen = strategies(names)
    found, met = {}, dict.fromkeys(chosen, 0)
    for row, name in zip(rows, names, strict=True):
        variant = met[name]
        met[name] += 1
        line, filled = ("-", "--", ":", "-.")[variant % 4], variant % 2 == 0
        found[row.label] = replace(chosen[name], line=line, filled=filled)
    return found


def wrapped(label: str) -> str:
    """Wrap a label to at most two lines, to fit above a small panel."""
    return "\n".join(wrap(label, 24, max_lines=2, placeholder=" …"))


def save(figure: Figure, svg: Path) -> None:
    """Write a figure as ``.svg`` and, beside it, as ``.png``. It is laid out once, which takes longer than drawing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    figure.savefig(svg, metadata={"Date": None})
    figure.savefig(svg.with_suffix(".png"), dpi=150)


def panels(count: int, width: float = 3.5, height: float = 3.1, across: int = ACROSS) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels in lines of equal length, at most ``across`` side by side."""
    down = ceil(count / across)
    across = ceil(count / down)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, axes[:count]


def legend(figure: Figure, rows: Sequence[Row], look: Mapping[str, Style], line: bool = True) -> None:
    """Add a legend of the rows above the panels."""
    without = {} if line else {"linestyle": "none"}
    legend_above(figure, [Line2D([], [], **look[row.label].line2d() | without, label=row.label) for row in rows])


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a legend above the panels, in as many columns as the figure is wide enough for."""
    labels = [shorten(str(handle.get_label()), 60, placeholder=" …") for handle in handles]
    across = max(1, min(len(labels), int(13 * figure.get_figwidth()) // (max(map(len, labels)) + 6)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (ceil(len(labels) / across) - 1))
    figure.legend(handles, labels, loc="outside upper center", ncols=across)
