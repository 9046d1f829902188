import math

import numpy as np
import pytest
from scipy import stats

from ensemble_transfer.report.statistics import Spread, holm, paired_difference, significantly_best


def by_seed(*values):
    return dict(enumerate(values))


@pytest.mark.parametrize("n", [2, 3, 12])
def test_a_difference_is_scipys_paired_t_test_and_interval(n):
    generator = np.random.default_rng(n)
    own, other = generator.normal(0.8, 0.1, n), generator.normal(0.7, 0.1, n)
    ours, test = paired_difference(by_seed(*own), by_seed(*other)), stats.ttest_rel(own, other)
    interval = test.confidence_interval(0.95)
    assert ours.mean == pytest.approx(np.mean(own - other), rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert ours.p == pytest.approx(test.pvalue, rel=1e-9)
    assert ours.n == n
    assert ours.significant == (test.pvalue < 0.05)


def test_seeds_are_paired_by_their_number_and_only_where_both_have_one():
    ours = paired_difference({3: 0.9, 1: 0.5, 7: 0.0}, {1: 0.4, 3: 0.7, 9: 1.0})
    assert ours.n == 2
    assert ours.mean == pytest.approx(0.15)
    assert ours.p == pytest.approx(stats.ttest_rel([0.5, 0.9], [0.4, 0.7]).pvalue)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("other", [by_seed(0.5), by_seed(0.5, 0.4), by_seed(0.6, 0.5)])
def test_one_seed_or_equal_differences_have_no_interval(other):
    ours = paired_difference(by_seed(0.6, 0.5), other)
    assert ours.mean == pytest.approx(0.6 - other[0])
    assert math.isnan(ours.low)
    assert not ours.significant
    assert ours.text(2) == f"{0.6 - other[0]:+.2f}"


def test_differences_and_spreads_as_text():
    ours = paired_difference(by_seed(0.6, 0.7, 0.8), by_seed(0.5, 0.5, 0.5))
    assert ours.text(2) == "+0.20 [-0.05, +0.45]"
    assert Spread.of([0.25]).text(2) == "0.25"
    assert Spread.of([0.2, 0.4]).text(2) == "0.30 ± 0.14"
    assert Spread(math.nan, math.nan, 0).text(2) == "-"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, math.nan]) == [1.0, 1.0]
    assert holm([]) == []


CLEAR = [by_seed(0.9, 0.91, 0.92), by_seed(0.5, 0.52, 0.51), by_seed(0.6, 0.61, 0.63)]


def test_the_best_is_marked_where_it_beats_every_other():
    assert significantly_best(CLEAR, True) == 0
    assert significantly_best(CLEAR, False) == 1
    assert significantly_best([*CLEAR, by_seed(0.95, 0.85, 0.9)], True) is None


def test_nothing_is_marked_that_holds_only_before_holms_correction():
    base = np.array([0.5, 0.5, 0.5])
    best = base + np.array([0.09, 0.12, 0.165])
    rivals = [base + shift for shift in ([0.0, 0.001, 0.0], [0.001, 0.0, 0.0], [0.0, 0.0, 0.001])]
    assert all(0.05 / 3 < stats.ttest_rel(best, rival).pvalue < 0.05 for rival in rivals)
    assert significantly_best([by_seed(*row) for row in (best, *rivals)], True) is None
    assert significantly_best([by_seed(*row) for row in (best, rivals[0])], True) == 0


@pytest.mark.parametrize(
    "rows",
    [
        [by_seed(1.0, 0.9, 0.95)],
        [by_seed(1.0), by_seed(0.0)],
        [*CLEAR, {}],
        [by_seed(0.9, 0.9), by_seed(0.5, 0.5)],
        [by_seed(0.5, 0.51, 0.52, 5.0), by_seed(0.6, 0.62, 0.61)],  # ahead by a seed that the other lacks
        [by_seed(0.9, 0.8), {5: 0.1, 6: 0.2}],
        [],
    ],
)
def test_nothing_is_marked_where_nothing_can_be_said(rows):
    assert significantly_best(rows, True) is None
