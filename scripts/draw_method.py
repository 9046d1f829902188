"""Draw the method, for the README and the documentation: a map of weight space in three steps.

    python scripts/draw_method.py docs/method.svg

It is a sketch: positions are chosen, not measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch
from numpy.typing import NDArray

Place: TypeAlias = NDArray[np.float64]

INK, FAINT, PAPER = "#1b1d22", "#70757f", "#ffffff"
MEMBER, DONOR, TINY, DEEP = "#0072B2", "#D55E00", "#009E73", "#00795a"
"""Colours of Okabe and Ito, which colour-blind readers tell apart, and a darker green for text."""

WIDTH, HEIGHT = 1.12, 1.0
"""Size of a panel's map."""

ANCESTOR = np.array([0.29, 0.3])
SHIFT = np.array([0.46, 0.37])
RADII = np.array([0.17, 0.19, 0.175, 0.18, 0.19])
ANGLES = np.deg2rad([98, 18, -62, -148, 160])
MEMBERS = ANCESTOR + RADII[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
"""Positions of the members; the first is the donor."""

TARGET = ANCESTOR + SHIFT + np.array([0.02, 0.06])
"""Where the target task's loss is lowest."""

VALLEY = np.array([0.30, 0.265])
"""Widths of a valley in the two directions."""

LEVELS = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Contours of a valley, as shares of its depth."""

OWN = np.array([[0.075, 0.062], [0.03, 0.0], [-0.03, 0.035], [-0.02, 0.05]])
"""What sets a recipient's tiny fine-tuning apart from the straight way to the target."""

TITLES = ("1  Source ensemble", "2  One full fine-tuning", "3  Shift, then a tiny fine-tuning")
NOTES = (
    "Members share an ancestor.",
    "The donor moves to the target task.\nIts move is the shift vector.",
    "All others move by the same vector,\nthen each takes a few steps of its own.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/draw_method.py", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="FILE", help="where to draw: .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    with matplotlib.rc_context({"font.size": 12, "svg.hashsalt": "ensemble_transfer", "text.color": INK}):
        draw().savefig(options.output, dpi=160, metadata={"Date": None} if options.output.suffix == ".svg" else {})
    print(options.output)
    return 0


def draw() -> Figure:
    """Return the figure."""
    figure = Figure(figsize=(13.6, 4.9), facecolor=PAPER)
    steps = (_source, _donor, _recipients)
    for axes, title, note, step in zip(figure.subplots(1, 3), TITLES, NOTES, steps, strict=True):
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("#c9ccd3")
        axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=10)
        axes.text(0, -0.035, note, ha="left", va="top", color=INK, linespacing=1.35)
        _landscape(axes)
        step(axes)
    figure.subplots_adjust(left=0.012, right=0.988, bottom=0.14, top=0.9, wspace=0.05)
    return figure


def _landscape(axes: Axes) -> None:
    """Draw the valleys of the two tasks' losses."""
    for centre, colour in ((ANCESTOR, MEMBER), (TARGET, TINY)):
        for level in LEVELS:
            size = 2 * np.sqrt(-np.log(level)) * VALLEY
            inside = Ellipse(tuple(centre), *size, facecolor=to_rgba(colour, 0.035), edgecolor=to_rgba(colour, 0.3))
            inside.set(linewidth=0.5, clip_path=axes.patch)
            axes.add_patch(inside)
    axes.text(0.03, 0.035, "source task: low loss", color=MEMBER, fontsize=10.5)
    axes.text(WIDTH - 0.03, HEIGHT - 0.035, "target task: low loss", color=DEEP, fontsize=10.5, ha="right", va="top")


def _source(axes: Axes) -> None:
    for member in MEMBERS:
        axes.plot(*zip(ANCESTOR, member, strict=True), color=FAINT, linewidth=1.2, zorder=2)
    _dots(axes, MEMBERS, MEMBER)
    axes.plot(*ANCESTOR, "o", markersize=9, markerfacecolor=PAPER, markeredgecolor=INK, markeredgewidth=1.4, zorder=4)
    away = near(ANCESTOR, 0.29, -0.055)
    axes.plot(*zip(near(ANCESTOR, 0.025, -0.005), away, strict=True), color=INK, linewidth=0.7, zorder=2)
    _label(axes, "ancestor", near(away, 0.01, 0), INK, ha="left")
    _label(axes, "member", near(MEMBERS[1], 0.035, 0), MEMBER, ha="left")


def _donor(axes: Axes) -> None:
    _dots(axes, MEMBERS[1:], MEMBER)
    start, end = MEMBERS[0], MEMBERS[0] + SHIFT
    path = _way(start, end)
    axes.plot(*path.T, color=DONOR, linewidth=1.1, alpha=0.75, zorder=3)
    axes.plot(*path[4:-1:4].T, ".", color=DONOR, markersize=4.5, alpha=0.75, zorder=3)
    _arrow(axes, start, end, DONOR, 3.0)
    _dots(axes, [start], PAPER, DONOR)
    _dots(axes, [end], DONOR)
    _label(axes, "donor", near(start, -0.03, 0), DONOR, ha="right")
    _label(axes, "full fine-tuning", near(path[30], -0.035, 0.02), DONOR, ha="right")
    _label(axes, "donor,\nfine-tuned", near(end, 0.035, 0), DONOR, ha="left")
    middle = (start + end) / 2
    angle = float(np.rad2deg(np.arctan2(SHIFT[1], SHIFT[0])))
    axes.text(
        *near(middle, 0.028, -0.034), "shift vector", color=DONOR, rotation=angle, rotation_mode="anchor", ha="center",
        va="center", fontweight="bold",
    )  # fmt: skip


def _recipients(axes: Axes) -> None:
    end = MEMBERS[0] + SHIFT
    for place, member in enumerate(MEMBERS[1:]):
        shifted = member + SHIFT
        tuned = shifted + 0.42 * (TARGET - shifted) + OWN[place]
        _arrow(axes, member, shifted, DONOR, 1.4, dashed=True)
        _arrow(axes, shifted, tuned, TINY, 2.2)
        _dots(axes, [member], PAPER, MEMBER)
        _dots(axes, [tuned], MEMBER)
    _dots(axes, [end], DONOR)
    _label(axes, "shift", near(MEMBERS[2] + 0.5 * SHIFT, 0.03, -0.02), DONOR, ha="left", va="top")
    _label(axes, "tiny\nfine-tuning", near(MEMBERS[2] + SHIFT, 0.03, -0.02), DEEP, ha="left", va="top")
    _label(axes, "recipient", near(MEMBERS[4], -0.01, 0.1), MEMBER, ha="center")
    _label(axes, "donor", near(end, 0.035, 0), DONOR, ha="left")


def near(place: Place, right: float, up: float) -> Place:
    """Return a point that lies so far from another."""
    return place + np.array([right, up])


def _way(start: Place, end: Place) -> Place:
    """Return the winding way of a training from one point to another, (steps, 2)."""
    share = np.linspace(0, 1, 61)[:, None]
    across = np.array([-(end - start)[1], (end - start)[0]])
    bend = 0.22 * np.sin(np.pi * share) + 0.035 * np.sin(9 * np.pi * share) * (1 - share)
    return start + share**0.8 * (end - start) + bend * across


def _arrow(axes: Axes, start: Place, end: Place, colour: str, width: float, dashed: bool = False) -> None:
    style = "-|>,head_length=0.5,head_width=0.26" if width > 2 else "-|>,head_length=0.42,head_width=0.22"
    axes.add_patch(
        FancyArrowPatch(
            tuple(start), tuple(end), arrowstyle=style, mutation_scale=14, color=colour, linewidth=width, shrinkA=5,
            shrinkB=6 if width > 2.5 else 3, linestyle=(0, (4, 2.2)) if dashed else "-", zorder=3, joinstyle="miter",
        )
    )  # fmt: skip


def _dots(axes: Axes, points: Sequence[Place], face: str, edge: str = PAPER) -> None:
    x, y = np.asarray(points).T
    axes.plot(x, y, "o", markersize=11, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.5, zorder=5)


def _label(axes: Axes, text: str, place: Place, colour: str, ha: str = "center", va: str = "center") -> None:
    axes.text(*place, text, color=colour, ha=ha, va=va, fontsize=11.5, linespacing=1.2, zorder=6)


if __name__ == "__main__":
    sys.exit(main())
