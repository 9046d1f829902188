"""Transfers of the same small ensemble share their fits: each is trained once for all tests of strategies.

That fits are pure, so that it does not matter where they come from, is what test_invariants.py checks with a fitter
that remembers nothing.
"""

from dataclasses import replace

import pytest

from ensemble_transfer import Fitter, Recipe, Recipes, Store, TrainerSettings, Workbench, transfer_ensemble


@pytest.fixture(scope="session")
def fitter(settings: TrainerSettings, shared_store: Store) -> Fitter:
    """A fitter that remembers what any test of a strategy has trained."""
    return Fitter(settings, shared_store)


@pytest.fixture(scope="session")
def transfer(source_ensemble, target_task, recipes, fitter):
    """Transfer an ensemble to the sealed target, whose test split no strategy may read."""

    def run(strategy, source=source_ensemble, budget=None, recipes=recipes, target=target_task, **changed):
        return transfer_ensemble(strategy, source, target.sealed(), 0, replace(recipes, **changed), fitter, budget)

    return run


@pytest.fixture(scope="session")
def longer(recipes) -> Recipes:
    """Recipes whose full fine-tuning is long beside probes, as in real ones."""
    return replace(recipes, full=Recipe(90, lr=1e-2), probe=Recipe(6, lr=1e-2), head=Recipe(8, lr=1e-2))


@pytest.fixture
def bench(source_ensemble, target_task, recipes, fitter):
    return Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter)
