import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from drawn import smooth, tied

from ensemble_transfer.metrics import ood


def reference_scores(array):
    """By name, in their natural units: every one falls where the ensemble is surer."""
    mean = array.mean(0)
    return {
        "max_probability": -mean.max(1),
        "entropy": scipy.stats.entropy(mean, axis=1),
        "mutual_information": scipy.stats.entropy(mean, axis=1) - scipy.stats.entropy(array, axis=2).mean(0),
    }


def reference_detection(inside, outside):
    score = np.concatenate([inside, outside])
    positive = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    false_positive, true_positive, _ = sklearn.metrics.roc_curve(positive, score, drop_intermediate=False)
    return {
        "auroc": sklearn.metrics.roc_auc_score(positive, score),
        "aupr": sklearn.metrics.average_precision_score(positive, score),
        "fpr95": min(false_positive[true_positive >= 0.95]),
    }


def flatter(members, examples, classes):
    array = smooth(members, examples, classes, seed=9).array ** 0.4
    return array / array.sum(-1, keepdims=True)


@pytest.mark.parametrize(("members", "examples", "classes", "outside"), [(3, 300, 5, 80), (2, 9, 2, 1)])
def test_agrees_with_scikit_learn(members, examples, classes, outside):
    inside_array, outside_array = smooth(members, examples, classes).array, flatter(members, outside, classes)
    inside, beyond = ood.scores(torch.from_numpy(inside_array)), ood.scores(torch.from_numpy(outside_array))
    expected_inside, expected_beyond = reference_scores(inside_array), reference_scores(outside_array)
    assert inside.keys() == expected_inside.keys()
    for name in inside:
        found = {key: value.item() for key, value in ood.detection(inside[name], beyond[name]).items()}
        assert found == pytest.approx(reference_detection(expected_inside[name], expected_beyond[name]), abs=1e-6)


def test_tied_scores_agree_with_scikit_learn():
    inside, outside = tied(3, 200, 3)[0], tied(3, 60, 3, seed=5)[0]
    found = ood.detection(*(ood.scores(p.probabilities)["max_probability"] for p in (inside, outside)))
    expected = reference_detection(*(np.round(-p.mean.max(1), 9) for p in (inside, outside)))
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_lie_in_0_to_1(classes):
    uniform, opposed = torch.full((2, 1, classes), 1 / classes), torch.eye(classes)[:2, None]
    flat = {key: value.item() for key, value in ood.scores(uniform).items()}
    assert flat == pytest.approx({"max_probability": 1 - 1 / classes, "entropy": 1, "mutual_information": 0})
    assert ood.scores(opposed)["mutual_information"].item() == pytest.approx(np.log(2) / np.log(classes))
