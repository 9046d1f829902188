import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from drawn import exact_mean, smooth, tied

from ensemble_transfer.metrics import predictive


@pytest.fixture(params=[(1, 50, 2), (3, 203, 4), (5, 400, 10)], ids=str)
def predictions(request):
    return smooth(*request.param)


def test_mean_and_quality_agree_with_scikit_learn(predictions):
    mean, labels = predictive.ensemble_mean(predictions.probabilities), predictions.labels
    reference, y = predictions.mean, predictions.label_array
    classes = range(reference.shape[1])
    np.testing.assert_allclose(mean, reference, rtol=1e-14)
    assert predictive.accuracy(mean, labels) == pytest.approx(
        sklearn.metrics.accuracy_score(y, reference.argmax(1)), abs=1e-12
    )
    assert predictive.balanced_accuracy(mean, labels) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(y, reference.argmax(1)), abs=1e-12
    )
    assert predictive.nll(mean, labels).item() == pytest.approx(
        sklearn.metrics.log_loss(y, reference, labels=list(classes)), rel=1e-12
    )
    expected = np.mean([sum((p[c] - (c == t)) ** 2 for c in classes) for p, t in zip(reference, y, strict=True)])
    assert predictive.brier(mean, labels).item() == pytest.approx(expected, rel=1e-12)


def test_log_loss_of_impossible_labels_agrees_with_scikit_learn():
    predictions, _ = tied(1, 200, 3)
    y, reference = predictions.label_array, predictions.array[0]
    assert (reference[np.arange(200), y] == 0).any()
    assert predictive.nll(predictions.probabilities[0], predictions.labels).item() == pytest.approx(
        sklearn.metrics.log_loss(y, reference, labels=[0, 1, 2]), rel=1e-12
    )


def test_entropy_agrees_with_scipy(predictions):
    for array in (predictions.array, tied(2, 100, 3)[0].array):
        found = predictive.entropy(torch.from_numpy(array))
        np.testing.assert_allclose(found, scipy.stats.entropy(array, axis=-1), atol=1e-14)


def test_predicted_class_is_the_most_probable_of_the_exact_mean():
    predictions, votes = tied(3, 500, 3)
    means = exact_mean(votes)
    expected = [row.index(max(row)) for row in means]
    assert sum(row.count(max(row)) > 1 for row in means) > 10
    mean = predictive.ensemble_mean(predictions.probabilities)
    assert predictive.predicted_class(mean).tolist() == expected
    np.testing.assert_allclose(predictive.confidence(mean), [float(max(row)) for row in means], rtol=1e-14)


def test_mean_is_the_same_bit_for_bit_in_any_order_of_the_members():
    probabilities = smooth(7, 2000, 5).probabilities
    assert not torch.equal(probabilities.mean(0), probabilities.flip(0).mean(0))
    assert torch.equal(predictive.ensemble_mean(probabilities), predictive.ensemble_mean(probabilities.flip(0)))
