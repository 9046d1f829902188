"""What a run may take is told before it starts, where it is long."""

import logging
from dataclasses import replace

import pytest

from ensemble_transfer.runs import duration
from ensemble_transfer.runs.duration import DAY, expected_seconds, warn_of_days
from ensemble_transfer.runs.evaluation import EvaluationSettings
from ensemble_transfer.runs.experiment import Dataset, Experiment
from ensemble_transfer.source.train import EnsembleSettings
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.transfer.strategies.few import Few


@pytest.fixture
def experiment(backbone, recipes, fitter):
    few = {"train": 20, "validation": 10, "test": 12}
    data = Dataset(Digits(**few), Digits(**few), 8, 1)
    return Experiment(data, backbone, EnsembleSettings(2), Few(), recipes, EvaluationSettings(), fitter, budget=1.0)


@pytest.mark.parametrize("phase", ["ancestor", "source", "full"])
def test_days_are_told(experiment, recipes, caplog, phase):
    long = replace(experiment, recipes=replace(recipes, **{phase: replace(getattr(recipes, phase), steps=10**8)}))
    assert expected_seconds(long) > DAY > 1000 * expected_seconds(experiment)
    with caplog.at_level(logging.WARNING):
        warn_of_days(experiment)
        assert not caplog.messages
        warn_of_days(long)
    [said] = caplog.messages
    assert said.startswith("this run may take ")
    assert "days on this machine" in said


def test_what_is_expected_grows_with_what_is_done(experiment, recipes):
    one = expected_seconds(experiment)
    full = expected_seconds(replace(experiment, budget=2.0)) - one
    assert full == pytest.approx(recipes.full.steps * duration.SECONDS_A_STEP, rel=0.5)
    more = expected_seconds(replace(experiment, ensemble=EnsembleSettings(3))) - one
    assert more == pytest.approx(recipes.source.steps * duration.SECONDS_A_STEP, rel=0.5)
    apart = expected_seconds(replace(experiment, ensemble=EnsembleSettings(2, "independent"))) - one
    assert apart == pytest.approx(recipes.ancestor.steps * duration.SECONDS_A_STEP, rel=0.5)
