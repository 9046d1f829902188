import itertools
import math

import numpy as np
import pytest
import torch

from ensemble_transfer.metrics import selective
from ensemble_transfer.metrics.predictive import confidence, correctness, ensemble_mean


def all_metrics(sure, correct):
    """Each metric by its definition, for an order without ties, as a loop over k."""
    order = sorted(range(len(sure)), key=lambda i: -sure[i])
    risks = [sum(not correct[i] for i in order[:k]) / k for k in range(1, len(order) + 1)]
    n, error = len(risks), risks[-1]
    optimum = error + ((1 - error) * math.log(1 - error) if error < 1 else 0)
    return {
        "aurc": sum(risks) / n,
        "eaurc": sum(risks) / n - optimum,
        "augrc": sum(k / n * risk for k, risk in enumerate(risks, 1)) / n,
        "coverage": max((k / n for k, risk in enumerate(risks, 1) if risk <= 0.05), default=0),
        "risk": next(risk for k, risk in enumerate(risks, 1) if 10 * k >= 8 * n),
    }


def measured(sure, correct):
    risk = selective.risk_curve(torch.as_tensor(sure, dtype=torch.float64), torch.as_tensor(correct))
    return {
        "aurc": selective.aurc(risk).item(),
        "eaurc": selective.eaurc(risk).item(),
        "augrc": selective.augrc(risk).item(),
        "coverage": selective.coverage_at_risk(risk, 0.05).item(),
        "risk": selective.risk_at_coverage(risk, 80).item(),
    }


def test_agrees_with_the_definitions(predictions):
    mean = ensemble_mean(predictions.probabilities)
    expected = all_metrics(predictions.mean.max(1), predictions.mean.argmax(1) == predictions.label_array)
    assert measured(confidence(mean), correctness(mean, predictions.labels)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("examples", [1, 2, 4, 5, 7, 99, 100, 101])
def test_agrees_at_every_number_of_examples(examples):
    rng = np.random.default_rng(examples)
    sure = rng.permutation(examples) / examples
    correct = rng.random(examples) < 0.5 + sure / 2
    assert measured(sure, correct) == pytest.approx(all_metrics(sure, correct), abs=1e-12)


def test_ties_take_the_expectation_over_their_orders():
    sure, correct = (
        np.array([0.5, 0.9, 0.5, 0.7, 0.5, 0.7]),
        np.array([True, True, False, False, False, True]),
    )
    risk = selective.risk_curve(torch.from_numpy(sure), torch.from_numpy(correct))
    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(sure[a] >= sure[b] for a, b in itertools.pairwise(order))
    ]
    curves = [[sum(not correct[i] for i in order[:k]) / k for k in range(1, 7)] for order in orders]
    assert len(curves) == math.factorial(3) * math.factorial(2)
    np.testing.assert_allclose(risk, np.mean(curves, axis=0), atol=1e-12)


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4])
def test_all_right_and_all_wrong(correct):
    found = measured([0.1, 0.2, 0.3, 0.3], correct)
    error = float(not correct[0])
    expected = {"aurc": error, "eaurc": 0, "augrc": error * 10 / 16, "coverage": 1 - error, "risk": error}
    assert found == pytest.approx(expected, abs=1e-12)


def test_risk_at_exactly_the_limit_counts():
    correct = [True] * 19 + [False] + [False] * 20
    assert measured(np.linspace(1, 0, 40), correct)["coverage"] == 20 / 40


def test_perfect_order_has_an_excess_that_vanishes():
    for examples in (10, 100, 10_000):
        found = measured(np.linspace(1, 0, examples), np.arange(examples) < 0.7 * examples)["eaurc"]
        assert 0 < found < 0.3 / examples
