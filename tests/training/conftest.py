"""Fits of fresh members of the small net on the source task."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.training.fit import Fitter, Start


@pytest.fixture(scope="session")
def architecture(backbone) -> Architecture:
    return backbone.architecture(8, 1, 5)


@pytest.fixture
def train(architecture, source_task, settings) -> Callable:
    """Return the fits of some members, or of their heads alone, with whatever is changed."""

    def run(members, recipe, store=None, tracker=None, *, heads=False, **changes):
        net, task = changes.pop("net", architecture), changes.pop("task", source_task)
        starts = [Start(member, net.initial(member), 50 + member) for member in members]
        fitter = Fitter(replace(settings, **changes), store, tracker)
        return fitter.fit(net, starts, task, recipe, "head" if heads else "full", heads)

    return run
