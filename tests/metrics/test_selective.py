import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import binom

from ensemble_transfer.metrics import selective


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


@pytest.mark.parametrize("examples", [1, 2, 7, 101])
def test_agrees_at_every_number_of_examples(examples):
    rng = np.random.default_rng(examples)
    sure = rng.permutation(examples) / examples
    correct = rng.random(examples) < 0.5 + sure / 2
    assert measured(sure, correct) == pytest.approx(all_metrics(sure, correct), abs=1e-12)


def test_ties_take_the_expectation_over_their_orders():
    sure, correct = np.array([0.5, 0.9, 0.5, 0.7, 0.5, 0.7]), np.array([True, True, False, False, False, True])
    risk = selective.risk_curve(torch.from_numpy(sure), torch.from_numpy(correct))
    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(sure[a] >= sure[b] for a, b in itertools.pairwise(order))
    ]
    curves = [[sum(not correct[i] for i in order[:k]) / k for k in range(1, 7)] for order in orders]
    assert len(curves) == math.factorial(3) * math.factorial(2)
    np.testing.assert_allclose(risk, np.mean(curves, axis=0), atol=1e-12)


def test_risk_at_exactly_the_limit_counts():
    correct = [True] * 19 + [False] + [False] * 20
    assert measured(np.linspace(1, 0, 40), correct)["coverage"] == 20 / 40


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


@pytest.mark.parametrize(("errors", "answered"), [(0, 59), (3, 20), (19, 20)])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_the_bound_is_the_rate_at_which_so_few_errors_are_rare(errors, answered, level):
    assert selective.risk_bound(errors, answered, level) == pytest.approx(
        bound_by_bisection(errors, answered, level), abs=1e-9
    )
    assert selective.risk_bound(answered, answered, level) == 1


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.2, 0.6])
def test_the_fewest_examples_are_those_on_which_a_threshold_is_found(risk):
    fewest = selective.fewest_examples(risk)
    sure = [torch.ones(number) for number in (fewest - 1, fewest)]
    found = [selective.threshold_at_risk(of.double(), of.bool(), risk) for of in sure]
    assert [threshold is None for threshold in found] == [True, False]


def draw_answers(examples, seed):
    """Confidences, and answers that are right with a probability that rises with them from 1/2 to 1."""
    rng = np.random.default_rng(seed)
    sure = rng.random(examples)
    return sure, rng.random(examples) < 0.5 + sure / 2


def by_the_fallback_procedure(sure, correct, limit, level):
    """Counts (answered, errors) of the last threshold that is accepted, from the definition, threshold by threshold."""
    starts = [x for x in (-6, -1, 0, 1) if limit * 2**x < 1]
    share, carried, best, x = level / (len(starts) + 1), 0.0, None, -6 * 64
    while limit * 2 ** (x / 64) < 1 - 1e-12:
        carried += share * (x / 64 in starts)
        answers = sure >= 1 - limit * 2 ** (x / 64)
        answered, errors = int(answers.sum()), int((answers & ~correct).sum())
        accepted = answered > 0 and binom.cdf(errors, answered, limit) <= carried
        best, carried = ((answered, errors), carried) if accepted else (best, 0.0)
        x += 1
    everything = binom.cdf((~correct).sum(), len(sure), limit) <= carried + share
    return (len(sure), int((~correct).sum())) if everything else best


@pytest.mark.parametrize("limit", [0.02, 0.25, 0.6])
@pytest.mark.parametrize("examples", [2, 40, 1000])
def test_the_threshold_for_a_risk_is_that_of_the_procedure(examples, limit):
    sure, correct = draw_answers(examples, seed=examples)
    expected = by_the_fallback_procedure(sure, correct, limit, 0.05)
    found = selective.threshold_at_risk(torch.from_numpy(sure), torch.from_numpy(correct), limit)
    if expected is None:
        assert found is None
        return
    assert (found.answered, found.errors) == expected
    assert found.risk == expected[1] / expected[0]
    assert found.risk < found.bound <= limit
    assert found.coverage == expected[0] / examples
    answers = sure >= found.value
    assert (answers.sum(), (answers & ~correct).sum()) == expected


def calibrated(rng, examples):
    """Right as often as the confidence says; mostly confident."""
    sure = 1 - 0.9 * rng.beta(0.4, 2.5, examples)
    return sure, rng.random(examples) < sure


def in_steps(rng, examples):
    """Few different confidences, and a risk that goes up and down with them."""
    step = rng.integers(5, size=examples)
    return np.array([0.6, 0.8, 0.9, 0.97, 0.99])[step], rng.random(examples) < np.array([0.7, 0.95, 0.8, 0.99, 0.88])[
        step
    ]


@pytest.mark.parametrize(("draw", "limit"), [(calibrated, 0.1), (in_steps, 0.12)])
def test_the_promise_holds_over_draws(draw, limit):
    """In 200 draws the true risk exceeds the limit at most as often as 95% confidence allows (99.9% of the time)."""
    rng = np.random.default_rng(0)
    sure, correct = draw(rng, 50_000)
    failed = 0
    for _ in range(200):
        found = selective.threshold_at_risk(*map(torch.from_numpy, draw(rng, 300)), limit)
        failed += found is not None and (~correct[sure >= found.value]).mean() > limit
    assert failed <= binom.ppf(0.999, 200, 0.05)


@pytest.mark.parametrize(("examples", "right"), [(0, True), (50, False), (58, True)])
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
