"""Transfers of the same small ensemble share their fits: each is trained once for all tests of strategies.

That fits are pure, so that it does not matter where they come from, is what test_invariants.py checks with a fitter
that remembers nothing.
"""

import pytest

from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store


@pytest.fixture(scope="session")
def fitter(settings: TrainerSettings, shared_store: Store) -> Fitter:
    """A fitter that remembers what any test of a strategy has trained."""
    return Fitter(settings, shared_store)
