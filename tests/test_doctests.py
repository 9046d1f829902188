"""The examples in docstrings say what happens."""

import doctest
from importlib import import_module

import pytest

MODULES = ("weights", "seeding", "metrics.evaluate", "models.ensemble", "tasks.arrays", "runs.estimator")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(import_module(f"ensemble_transfer.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
