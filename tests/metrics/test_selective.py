import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import beta

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


# Thresholds


def bound_by_bisection(errors, answered, level):
    """The error rate at which seeing so few errors has probability ``level``, from the binomial's own terms."""
    low, high = Fraction(0), Fraction(1)
    for _ in range(40):
        rate = (low + high) / 2
        few = sum(math.comb(answered, k) * rate**k * (1 - rate) ** (answered - k) for k in range(errors + 1))
        low, high = (rate, high) if few > Fraction(level) else (low, rate)
        low, high = (Fraction(round(edge * 2**50), 2**50) for edge in (low, high))
    return float(low)


@pytest.mark.parametrize(("errors", "answered"), [(0, 1), (0, 59), (1, 2), (3, 20), (19, 20), (7, 60)])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_the_bound_is_the_rate_at_which_so_few_errors_are_rare(errors, answered, level):
    assert selective.risk_bound(errors, answered, level) == pytest.approx(
        bound_by_bisection(errors, answered, level), abs=1e-9
    )


def test_the_bound_at_the_ends():
    assert selective.risk_bound(5, 5, 0.05) == 1
    assert selective.risk_bound(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))


def draw_answers(examples, seed):
    """Confidences, and answers that are right with a probability that rises with them from 1/2 to 1."""
    rng = np.random.default_rng(seed)
    sure = rng.random(examples)
    return sure, rng.random(examples) < 0.5 + sure / 2


def by_the_papers_algorithm(sure, correct, limit, level):
    """Algorithm 2 of Geifman & El-Yaniv 2017: counts (answered, errors) of the best look that keeps the limit."""
    order = np.argsort(-sure)
    looks = math.ceil(math.log2(len(sure)))
    low, high, best = 1, len(sure), None
    for _ in range(looks):
        answered = (low + high) // 2
        errors = int((~correct[order[:answered]]).sum())
        if beta.ppf(1 - level / looks, errors + 1, answered - errors) <= limit:
            best = max(best or (0, 0), (answered, errors))
            low = min(answered + 1, high)
        else:
            high = max(answered - 1, low)
    return best


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.2, 0.3, 0.6])
@pytest.mark.parametrize("examples", [2, 40, 1000])
def test_the_threshold_for_a_risk_is_that_of_the_algorithm(examples, limit):
    sure, correct = draw_answers(examples, seed=examples)
    expected = by_the_papers_algorithm(sure, correct, limit, 0.05)
    found = selective.threshold_at_risk(torch.from_numpy(sure), torch.from_numpy(correct), limit)
    if expected is None:
        assert found is None
        return
    assert (found.answered, found.errors) == expected
    assert found.bound <= limit
    assert found.risk == expected[1] / expected[0]
    assert found.coverage == expected[0] / examples
    answers = sure >= found.value
    assert (answers.sum(), (answers & ~correct).sum()) == expected


def test_the_risk_is_kept_on_what_is_drawn_later():
    """The true risk above a confidence t is (1 - t) / 4; the limit may fail in 5 of 100 draws, and rarely does."""
    limit, failed, coverages = 0.15, 0, []
    for seed in range(100):
        sure, correct = (torch.from_numpy(array) for array in draw_answers(500, seed))
        found = selective.threshold_at_risk(sure, correct, limit)
        coverages.append(found.coverage if found else 0)
        failed += found is not None and (1 - found.value) / 4 > limit
    assert failed <= 5
    assert 0.2 < np.mean(coverages) < 0.6  # true risks are below the limit up to a coverage of 0.6 (0.15 = 0.6 / 4)


@pytest.mark.parametrize(("examples", "right"), [(0, True), (1, True), (50, False), (58, True)])
def test_without_a_threshold_that_keeps_the_risk_there_is_none(examples, right):
    sure = torch.linspace(0, 1, examples, dtype=torch.float64)
    assert selective.threshold_at_risk(sure, torch.full((examples,), right), 0.05) is None


@pytest.mark.parametrize(("coverage", "answered"), [(0.01, 1), (0.2, 2), (0.21, 3), (0.9, 9), (0.95, 10)])
def test_the_threshold_for_a_coverage_answers_that_share(coverage, answered):
    sure = torch.tensor([0.3, 0.9, 0.5, 0.8, 0.1, 0.6, 0.7, 0.4, 0.2, 0.95], dtype=torch.float64)
    found = selective.threshold_at_coverage(sure, sure > 0.55, coverage)
    assert (sure >= found.value).sum() == found.answered == answered
    assert found.errors == max(0, answered - 5)
    assert found.bound is None


def test_equal_confidences_are_answered_together():
    sure, correct = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1]).double(), torch.tensor([True, True, False, True, True])
    found = selective.threshold_at_coverage(sure, correct, 0.4)
    assert (found.answered, found.errors) == (4, 1)
    assert 0.1 < found.value <= 0.5


def test_a_threshold_lets_rounding_pass_but_no_other_example():
    sure = torch.tensor([0.9, 0.5, 0.5 - 1e-9, 0.1], dtype=torch.float64)
    correct = torch.ones(4, dtype=torch.bool)
    assert selective.threshold_at_coverage(sure, correct, 0.5).value == pytest.approx(0.5 - 5e-10, abs=1e-12)
    assert selective.threshold_at_coverage(sure, correct, 0.75).value == pytest.approx(0.5 - 1e-9 - 1e-6, abs=1e-12)
