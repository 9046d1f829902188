"""The rows of the comparison with peers, and where its files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """What somebody would do: its name in files, in words, a module of this folder, and its settings."""

    name: str
    words: str
    module: str
    settings: dict[str, Any]


ROWS = [
    Row("two", "**ours**: two members, half the steps each", "ours", {"members": 2}),
    Row("auto", "**ours**: `auto`, which takes one member of all steps here", "ours", {}),
    Row("loop10", "a plain loop, rate .001", "plain_loop", {"lr": 0.001}),
    Row("loop3", "a plain loop, rate .0003", "plain_loop", {"lr": 0.0003}),
    Row("frozen", "logistic regression on frozen features", "frozen_features", {}),
    Row("tuned", "logistic regression, strength by cross-validation", "frozen_features", {"tuned": True}),
    Row("autogluon", "AutoGluon's rules", "autogluon_rules", {}),
    Row("fastai", "fastai, `fine_tune`", "fastai_fine_tune", {}),
    Row("fastai16", "fastai, `fine_tune`, batches of 16", "fastai_fine_tune", {"bs": 16}),
]
"""In the order in which they are run."""


class Place(NamedTuple):
    """Where things are: data sets, finished runs, the peers' environment."""

    data: Path
    runs: Path
    environment: Path
