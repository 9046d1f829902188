"""A choice on validation: the best is taken, and the intervals are those of paired differences."""

import math

import numpy as np
import pytest
import torch

from ensemble_transfer.metrics import calibration
from ensemble_transfer.metrics.predictive import nll
from ensemble_transfer.transfer.choice import Candidate, choose, differ, joined_candidates


def predictions(sharpness, examples=60, seed=0):
    """Probabilities (1, examples, 3) that are right the more often, the sharper they are; and the labels."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % 3
    logits = torch.randn(1, examples, 3, generator=draws) + sharpness * torch.eye(3)[labels]
    return logits.softmax(-1), labels


def candidate(name, sharpness, seed=0):
    return Candidate(name, [{}], predictions(sharpness, seed=seed)[0])


LABELS = predictions(1.0)[1]


def test_the_sharpest_is_taken_and_the_others_are_behind():
    candidates = [candidate("poor", 0.3), candidate("good", 3.0), candidate("fair", 1.5)]
    taken, told = choose(candidates, LABELS)
    assert taken.name == "good"
    assert [row["taken"] for row in told] == [False, True, False]
    assert told[1]["behind"] == told[1]["low"] == told[1]["high"] == 0
    assert all(row["behind"] > 0 for row in (told[0], told[2]))


@pytest.mark.parametrize("order", [1, -1])
def test_one_that_is_not_finite_is_not_taken(order):
    lost = Candidate("lost", [{}], torch.full((1, 60, 3), math.nan))
    assert choose([lost, candidate("poor", 0.3)][::order], LABELS)[0].name == "poor"


def test_intervals_are_those_of_paired_differences():
    candidates = [candidate("one", 1.0, seed=1), candidate("other", 2.0, seed=2)]
    taken, told = choose(candidates, LABELS)
    differences = (candidates[0].losses(LABELS) - taken.losses(LABELS)).numpy()
    error = 1.96 * np.std(differences, ddof=1) / math.sqrt(len(LABELS))
    assert told[0]["behind"] == pytest.approx(differences.mean())
    assert (told[0]["low"], told[0]["high"]) == pytest.approx((differences.mean() - error, differences.mean() + error))


def test_candidates_differ_where_the_interval_of_their_difference_leaves_out_zero():
    poor, fair, good = (candidate("", sharpness, seed=seed) for seed, sharpness in enumerate((0.3, 1.5, 3.0)))
    again = candidate("", 1.5, seed=7)
    assert [differ(fair, other, LABELS) for other in (poor, again, good)] == [True, False, True]
    for one, other in ((poor, fair), (fair, again)):
        [row] = [row for row in choose([one, other], LABELS)[1] if not row["taken"]]
        assert differ(one, other, LABELS) == differ(other, one, LABELS) == (row["low"] > 0)


def test_a_temperature_does_not_decide():
    sharp, labels = predictions(2.0)
    hot = (sharp.log() * 5).softmax(-1)  # the same order of classes, overconfident
    plain, overconfident = (Candidate(name, [{}], p).losses(labels).mean() for name, p in (("a", sharp), ("b", hot)))
    assert float(overconfident) == pytest.approx(float(plain), abs=0.02)


def test_metric_and_choice_have_one_floor_of_probabilities():
    labels = torch.tensor([0] * 39 + [1])
    probabilities = torch.tensor([[0.7, 0.3]] * 39 + [[1.0, 0.0]], dtype=torch.float64)
    temperature = calibration.fit_temperature(probabilities, labels)
    scaled = calibration.apply_temperature(probabilities, temperature)
    losses = Candidate("", (), probabilities[None]).losses(labels)
    assert float(losses.mean()) == float(nll(scaled, labels))
    assert losses.isfinite().all()


def test_the_first_of_equals_is_taken_and_members_add_up():
    one = candidate("one", 1.0)
    twice = joined_candidates("twice", one, one)
    taken, told = choose([one, twice], LABELS)
    assert taken.name == "one"
    assert [row["members"] for row in told] == [1, 2]
