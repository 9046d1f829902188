"""What holds for any predictions, with many ties and with probabilities of exactly 0 and 1."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble_transfer.metrics.evaluate import evaluate

DIFFERENCES = ("disagreement", "disagreement_normalised", "kl", "js", "mutual_information", "jensen_gap")

quick = settings(deadline=None, max_examples=30, derandomize=True)


@st.composite
def cases(draw, members=(1, 4), examples=(1, 12)):
    """Probabilities that are ratios of small integers, or far smaller than that, and labels."""
    shape = (draw(st.integers(*members)), draw(st.integers(*examples)), draw(st.integers(2, 4)))
    weights = draw(arrays(float, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 1e-9, 1e-30])))
    weights[weights.sum(-1) == 0] = 1
    labels = draw(arrays(int, shape[1], elements=st.integers(0, shape[2] - 1)))
    return weights / weights.sum(-1, keepdims=True), labels


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == pytest.approx(expected[key], abs=1e-9, nan_ok=True), key


@given(cases(), st.randoms(use_true_random=False))
@quick
def test_permuting_members_changes_nothing(case, rng):
    probabilities, labels = case
    order = rng.sample(range(len(probabilities)), len(probabilities))
    outside = {"flipped": probabilities[:, ::-1] ** 2 / (probabilities[:, ::-1] ** 2).sum(-1, keepdims=True)}
    permuted = {"flipped": outside["flipped"][order]}
    assert_same(evaluate(probabilities[order], labels, ood=permuted), evaluate(probabilities, labels, ood=outside))


@given(cases(), st.randoms(use_true_random=False))
@quick
def test_permuting_examples_changes_nothing(case, rng):
    probabilities, labels = case
    order = rng.sample(range(len(labels)), len(labels))
    outside = {"flipped": probabilities[..., ::-1]}
    permuted = {"flipped": probabilities[:, order, ::-1]}
    assert_same(
        evaluate(probabilities[:, order], labels[order], ood=permuted, validation=(probabilities, labels)),
        evaluate(probabilities, labels, ood=outside, validation=(probabilities[:, order], labels[order])),
    )
    assert_same(evaluate(probabilities[:, order], labels[order]), evaluate(probabilities, labels))


@given(cases(members=(1, 1)), st.integers(1, 7))
@quick
def test_identical_members_have_no_diversity_and_equal_the_ensemble(case, members):
    probabilities, labels = case
    found = evaluate(np.repeat(probabilities, members, axis=0), labels)
    assert [found[f"diversity/{key}"] for key in DIFFERENCES] == [0] * len(DIFFERENCES)
    for key in ("accuracy", "nll", "brier"):
        assert found[f"member/{key}"] == found[f"ensemble/{key}"]
    assert found["member/ece"] == pytest.approx(found["calibration/ece"], abs=1e-12)
    assert found["member/accuracy_min"] == found["member/accuracy_max"] == found["member/accuracy"]
    for key in ("error_correlation", "q_statistic", "kappa"):
        undefined = math.isnan(found[f"diversity/{key}"])
        assert undefined if members == 1 else undefined or found[f"diversity/{key}"] == pytest.approx(1)
    assert math.isnan(found["diversity/double_fault"]) == (members == 1)


@given(cases(members=(2, 4)))
@quick
def test_everything_is_finite_and_in_range(case):
    probabilities, labels = case
    found = evaluate(probabilities, labels, ood={"o": probabilities[:, :1]})
    for key, value in found.items():
        if key not in ("diversity/error_correlation", "diversity/q_statistic", "diversity/kappa"):
            assert math.isfinite(value), key
    unit = [key for key in found if "accuracy" in key or key.endswith(("ece", "mce", "auroc", "aupr", "fpr95"))]
    unit += ["selective/aurc", "selective/augrc", "selective/coverage_at_5_risk", "diversity/disagreement"]
    for key in unit:
        assert -1e-12 <= found[key] <= 1 + 1e-6, key
    assert found["ensemble/nll"] <= found["member/nll"] + 1e-9
    assert found["calibration/ece"] <= found["calibration/mce"] + 1e-9
    assert found["diversity/js"] <= math.log(2) + 1e-9
    assert found["selective/eaurc"] >= -1e-9
    assert found["member/accuracy_min"] <= found["member/accuracy"] <= found["member/accuracy_max"]


@given(st.integers(1, 4), st.integers(1, 30), st.integers(2, 12))
@quick
def test_uniform_predictions_have_known_values(members, examples, classes):
    labels = np.arange(examples) % classes
    found = evaluate(np.full((members, examples, classes), 1 / classes), labels)
    accuracy = np.mean(labels == 0)
    expected = {
        "ensemble/accuracy": accuracy,
        "ensemble/nll": math.log(classes),
        "ensemble/brier": 1 - 1 / classes,
        "calibration/ece": abs(accuracy - 1 / classes),
        "calibration/mce": abs(accuracy - 1 / classes),
        "calibration/ece_adaptive": abs(accuracy - 1 / classes),
        "calibrated/nll": math.log(classes),
        "calibrated/temperature": 1,
        "selective/aurc": 1 - accuracy,
        "selective/augrc": (1 - accuracy) * (examples + 1) / (2 * examples),
        "selective/risk_at_80_coverage": 1 - accuracy,
        "diversity/disagreement": 0,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-7)


def test_class_that_is_no_label():
    probabilities = np.array([[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]], [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1]]])
    found = evaluate(probabilities, [0, 1])
    mean = probabilities.mean(0)
    assert found["ensemble/accuracy"] == 1
    assert found["calibration/ece_classwise"] == pytest.approx(
        np.mean([0.5 * (1 - 0.55) + 0.5 * 0.4, 0.5 * 0.25 + 0.5 * 0.5, np.mean(mean[:, 2])])
    )
