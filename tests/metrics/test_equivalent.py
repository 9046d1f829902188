import math

import pytest

from ensemble_transfer.metrics.equivalent import deep_ensemble_equivalent, worth

REFERENCE = [1.0, 0.8, 0.7, 0.65]


@pytest.mark.parametrize(
    ("nll", "size"),
    [(0.9, 1.5), (0.8, 2), (0.66, 3.8), (0.65, 4), (1.0, 1), (1.2, 1), (0.6, math.inf)],
)
def test_interpolates(nll, size):
    assert deep_ensemble_equivalent(nll, REFERENCE) == pytest.approx(size)


def test_takes_the_first_size_of_a_reference_that_is_not_monotone():
    assert deep_ensemble_equivalent(0.8, [1.0, 0.7, 0.9, 0.6]) == pytest.approx(1 + 2 / 3)


@pytest.mark.parametrize(("nll", "reference"), [(0.5, []), (math.nan, [1.0]), (0.5, [1.0, math.inf])])
def test_bad_values(nll, reference):
    with pytest.raises(ValueError, match="must be finite numbers of nats, at least one of each"):
        deep_ensemble_equivalent(nll, reference)


@pytest.mark.parametrize(
    ("nll", "expected"), [(0.5, 1.0), (0.45, 1.5), (0.35, 3.0), (0.1, 3.0), (0.5 + 1e-9, None), (5.0, None)]
)
def test_worth_is_not_given_below_one_member_and_ends_at_the_reference(nll, expected):
    assert worth(nll, [0.5, 0.4, 0.35]) == (None if expected is None else pytest.approx(expected))
