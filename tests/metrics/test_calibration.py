from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from drawn import exact_mean, smooth, tied

from ensemble_transfer.metrics import calibration
from ensemble_transfer.metrics.predictive import ensemble_mean

BINS = 15


def binned_gaps(sure, happened):
    """By bin [b/15, (b+1)/15), the last one closed: share of the examples and |frequency - mean|."""
    gaps = []
    for b in range(BINS):
        inside = [i for i, s in enumerate(sure) if min(int(s * BINS), BINS - 1) == b]
        if inside:
            frequency = sum(Fraction(bool(happened[i])) for i in inside) / len(inside)
            mean = sum(Fraction(sure[i]) for i in inside) / len(inside)
            gaps.append((len(inside) / len(sure), float(abs(frequency - mean))))
    return gaps


def top_label(means, labels):
    right = [row.index(max(row)) == y for row, y in zip(means, labels, strict=True)]
    return [max(row) for row in means], right


@pytest.fixture(params=["smooth, 7", "tied, 3"])
def case(request):
    """The ensemble's probabilities, the labels, and the probabilities as exact fractions."""
    kind, classes = request.param.split(", ")
    if kind == "smooth":
        predictions = smooth(3, 301, int(classes))
        means = [[Fraction(p) for p in row] for row in predictions.mean.tolist()]
    else:
        predictions, votes = tied(3, 400, int(classes))
        means = exact_mean(votes)
    return ensemble_mean(predictions.probabilities), predictions.labels, means


def test_errors_agree_with_their_definitions(case):
    mean, labels, means = case
    gaps = binned_gaps(*top_label(means, labels.tolist()))
    assert calibration.ece(mean, labels).item() == pytest.approx(sum(w * g for w, g in gaps), abs=1e-7)
    assert calibration.mce(mean, labels).item() == pytest.approx(max(g for _, g in gaps), abs=1e-7)
    classwise = [
        sum(w * g for w, g in binned_gaps([row[c] for row in means], [y == c for y in labels.tolist()]))
        for c in range(len(means[0]))
    ]
    assert calibration.ece_classwise(mean, labels).item() == pytest.approx(np.mean(classwise), abs=1e-7)


def test_confidence_1_falls_in_the_last_bin():
    probabilities, labels = torch.tensor([[1.0, 0.0], [0.95, 0.05]]), torch.tensor([1, 0])
    assert calibration.ece(probabilities, labels).item() == pytest.approx(abs(0.5 - 0.975))
    assert calibration.mce(probabilities, labels).item() == pytest.approx(abs(0.5 - 0.975))


def test_adaptive_error_agrees_with_its_definition(case):
    mean, labels, means = case
    sure, right = top_label(means, labels.tolist())
    shared = [Fraction(sum(r for s, r in zip(sure, right, strict=True) if s == own), sure.count(own)) for own in sure]
    order = sorted(range(len(sure)), key=sure.__getitem__)
    runs = np.array_split(order, BINS)
    expected = sum(float(abs(sum(sure[i] - shared[i] for i in run))) for run in runs) / len(sure)
    assert calibration.ece_adaptive(mean, labels).item() == pytest.approx(expected, abs=1e-9)


def test_reliability_sums_to_the_ece(case):
    mean, labels, means = case
    found = calibration.reliability(mean, labels)
    count, confidence, accuracy = (np.array(found[name], float) for name in ("count", "confidence", "accuracy"))
    sure, right = top_label(means, labels.tolist())
    assert count.tolist() == [sum(min(int(s * BINS), 14) == b for s in sure) for b in range(BINS)]
    hits = [sum(r for s, r in zip(sure, right, strict=True) if min(int(s * BINS), 14) == b) for b in range(BINS)]
    np.testing.assert_allclose(accuracy[count > 0] * count[count > 0], np.array(hits)[count > 0])
    assert np.isnan(confidence[count == 0]).all()
    ece = np.nansum(count * abs(accuracy - confidence)) / len(mean)
    assert calibration.ece(mean, labels).item() == pytest.approx(ece, abs=1e-12)


def reference_temperature(mean, labels):
    """The temperature by its definition and another method: where the slope in 1/T of the weighted NLL is 0.

    To the examples come further ones of every class, a tenth of an example together.
    """
    examples, classes = mean.shape
    log_p = np.log(np.maximum(mean, np.finfo(float).eps))
    truth = np.concatenate([labels, np.tile(np.arange(classes), examples)])
    weights = np.concatenate([np.ones(examples), np.full(examples * classes, 0.1 / (examples * classes))])
    log_p = np.concatenate([log_p, np.repeat(log_p, classes, axis=0)])

    def slope(inverse):
        q = scipy.special.softmax(inverse * log_p, axis=1)
        return weights @ ((q * log_p).sum(1) - log_p[np.arange(len(truth)), truth])

    if slope(1 / 0.05) < 0:
        return 0.05
    return 1 / scipy.optimize.brentq(slope, 1 / 100, 1 / 0.05, xtol=1e-14)


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("examples", [10, 500])
@pytest.mark.parametrize("sharpness", [0.3, 4.0])
def test_temperature_agrees_with_scipy(sharpness, examples, classes):
    predictions = smooth(3, examples, classes)
    mean = scipy.special.softmax(sharpness * np.log(predictions.mean), axis=1)
    probabilities, labels = torch.from_numpy(mean), predictions.labels
    temperature = calibration.fit_temperature(probabilities, labels)
    assert temperature == pytest.approx(reference_temperature(mean, predictions.label_array), rel=1e-6)
    scaled = calibration.apply_temperature(probabilities, temperature)
    logits = np.log(np.maximum(mean, np.finfo(float).eps))
    np.testing.assert_allclose(scaled, scipy.special.softmax(logits / temperature, axis=1), rtol=1e-9)


@pytest.mark.parametrize("sure", [0.7, 1 - 1e-6])
@pytest.mark.parametrize("examples", [1, 500])
def test_without_an_error_a_tenth_of_an_example_says_how_sure_to_be(examples, sure):
    """With two classes half of it is wrong: of N right answers a share of 0.05 / (N + 0.1)."""
    probabilities = torch.tensor([[sure, 1 - sure]], dtype=torch.float64).repeat(examples, 1)
    labels = torch.zeros(examples, dtype=torch.long)
    temperature = calibration.fit_temperature(probabilities, labels)
    wrong = calibration.apply_temperature(probabilities, temperature)[0, 1].item()
    assert wrong == pytest.approx(0.05 / (examples + 0.1), rel=1e-5)


def test_temperature_where_there_is_no_minimum():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    assert calibration.fit_temperature(probabilities, wrong) == pytest.approx(100)
    assert calibration.fit_temperature(torch.full((2, 2), 0.5), right) == 1
    assert calibration.fit_temperature(probabilities[:0], right[:0]) == 1


def test_cross_calibration_never_fits_on_the_example_itself_and_reports_the_geometric_mean():
    predictions = smooth(1, 61, 4)
    probabilities, labels = predictions.probabilities[0], predictions.labels
    scaled, reported = calibration.cross_calibrate(probabilities, labels)
    used = (scaled.log()[:, 0] - scaled.log()[:, 1]) / (probabilities.log()[:, 0] - probabilities.log()[:, 1])
    temperatures = sorted({round(1 / u, 6) for u in used.tolist()})
    assert len(temperatures) == 2
    for temperature in temperatures:
        applied = (1 / used - temperature).abs() < 1e-5
        assert 30 <= applied.sum() <= 31
        assert calibration.fit_temperature(probabilities[~applied], labels[~applied]) == pytest.approx(
            temperature, abs=1e-5
        )
    assert reported == pytest.approx((-used.log().mean()).exp().item())
