"""The rows of the comparison with peers, and where its files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """What somebody would do: its name in files, in words, a module of this folder, its settings, pixels a side."""

    name: str
    words: str
    module: str
    settings: dict[str, Any]
    pixels: int


def ours(members: int, words: str, pixels: int) -> Row:
    """Return a row of ours."""
    name = f"{words.split()[0]}{pixels}"
    return Row(name, f"**ours**: {words}", "ours", {"members": members, "pixels": pixels}, pixels)


ROWS = [
    ours(2, "two members, fully fine-tuned", 128),
    ours(1, "one member, fully fine-tuned", 128),
    Row("auto", "**ours**: `auto`", "ours", {}, 128),
    Row("loop10_128", "a plain loop, rate .001", "plain_loop", {"lr": 0.001}, 128),
    Row("loop3_128", "a plain loop, rate .0003", "plain_loop", {"lr": 0.0003}, 128),
    Row("frozen128", "logistic regression on frozen features", "frozen_features", {}, 128),
    Row("tuned128", "logistic regression, strength by cross-validation", "frozen_features", {"tuned": True}, 128),
    Row("autogluon128", "AutoGluon's rules", "autogluon_rules", {}, 128),
    Row("fastai128", "fastai, `fine_tune`", "fastai_fine_tune", {}, 128),
    Row("fastai16_128", "fastai, `fine_tune`, batches of 16", "fastai_fine_tune", {"bs": 16}, 128),
]
"""In the order in which they are run."""


class Place(NamedTuple):
    """Where things are: data sets, finished runs, the peers' environment."""

    data: Path
    runs: Path
    environment: Path
