"""Transfers of the same small ensemble share their fits: each is trained once for all tests of strategies.

That fits are pure, so that it does not matter where they come from, is what test_invariants.py checks with a fitter
that remembers nothing.
"""

from dataclasses import replace

import pytest

from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import Workbench, transfer_ensemble


@pytest.fixture(scope="session")
def fitter(settings: TrainerSettings, shared_store: Store) -> Fitter:
    """A fitter that remembers what any test of a strategy has trained."""
    return Fitter(settings, shared_store)


@pytest.fixture(scope="session")
def transfer(source_ensemble, target_task, recipes, fitter):
    """Transfer the source ensemble to the sealed target, whose test split no strategy may read."""

    def run(strategy, source=source_ensemble, budget=None, recipes=recipes, **changed):
        changes = replace(recipes, **changed)
        return transfer_ensemble(strategy, source, target_task.sealed(), 0, changes, fitter, budget)

    return run


@pytest.fixture
def bench(source_ensemble, target_task, recipes, fitter):
    return Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter)
