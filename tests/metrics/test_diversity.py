from itertools import combinations, permutations

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics
import torch
from drawn import smooth, tied

from ensemble_transfer.metrics import diversity


def pairs(members):
    return list(combinations(range(len(members)), 2))


@pytest.fixture
def several():
    return smooth(4, 150, 5)


@pytest.fixture
def classes(several):
    return several.array.argmax(-1)


@pytest.fixture
def correct(several, classes):
    return classes == several.label_array


def test_disagreement(classes):
    matrix = [[sum(a != b for a, b in zip(i, j, strict=True)) / len(i) for j in classes] for i in classes]
    np.testing.assert_allclose(diversity.disagreement_matrix(torch.from_numpy(classes)), matrix, atol=1e-12)
    expected = np.mean([matrix[i][j] for i, j in pairs(classes)])
    assert diversity.disagreement(torch.from_numpy(classes)).item() == pytest.approx(expected)


def test_normalised_disagreement():
    found = diversity.normalised_disagreement(torch.tensor(0.3), torch.tensor(0.6))
    assert found.item() == pytest.approx(0.75)
    assert diversity.normalised_disagreement(torch.tensor(0.0), torch.tensor(1.0)).item() == 0


def test_kl_is_the_mean_over_ordered_pairs(several):
    expected = np.mean([scipy.stats.entropy(p, q, axis=1).mean() for p, q in permutations(several.array, 2)])
    assert diversity.kl(several.probabilities).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["smooth", "tied"])
def test_js_agrees_with_scipy(kind, several):
    predictions = several if kind == "smooth" else tied(4, 150, 5)[0]
    expected = np.mean(
        [
            (scipy.spatial.distance.jensenshannon(predictions.array[i], predictions.array[j], axis=1) ** 2).mean()
            for i, j in pairs(predictions.array)
        ]
    )
    assert diversity.js(predictions.probabilities).item() == pytest.approx(expected, rel=1e-9)


def test_mutual_information_agrees_with_scipy(several):
    for predictions in (several, tied(3, 80, 4)[0]):
        of_members = scipy.stats.entropy(predictions.array, axis=-1).mean(0)
        expected = scipy.stats.entropy(predictions.mean, axis=-1) - of_members
        np.testing.assert_allclose(diversity.mutual_information(predictions.probabilities), expected, atol=1e-14)


def test_mutual_information_is_the_same_bit_for_bit_in_any_order_of_the_members():
    probabilities = smooth(7, 2000, 5).probabilities
    forth, back = (diversity.mutual_information(p) for p in (probabilities, probabilities.flip(0)))
    assert torch.equal(forth, back)


def test_jensen_gap(several):
    y, index = several.label_array, np.arange(150)
    of_members = np.mean([-np.log(member[index, y]).mean() for member in several.array])
    expected = of_members + np.log(several.mean[index, y]).mean()
    assert diversity.jensen_gap(several.probabilities, several.labels).item() == pytest.approx(expected)


def test_agreement_of_errors(correct):
    right = torch.from_numpy(correct)
    wrong = ~correct
    correlation = [np.corrcoef(wrong[i], wrong[j])[0, 1] for i, j in pairs(wrong)]
    assert diversity.error_correlation(right).item() == pytest.approx(np.mean(correlation))
    kappa = [sklearn.metrics.cohen_kappa_score(correct[i], correct[j]) for i, j in pairs(correct)]
    assert diversity.kappa(right).item() == pytest.approx(np.mean(kappa))
    double = [sum(a and b for a, b in zip(wrong[i], wrong[j], strict=True)) / 150 for i, j in pairs(wrong)]
    assert diversity.double_fault(right).item() == pytest.approx(np.mean(double))
    q = []
    for i, j in pairs(correct):
        both, neither = (correct[i] & correct[j]).sum(), (wrong[i] & wrong[j]).sum()
        one, other = (correct[i] & wrong[j]).sum(), (wrong[i] & correct[j]).sum()
        q.append((both * neither - one * other) / (both * neither + one * other))
    assert diversity.q_statistic(right).item() == pytest.approx(np.mean(q))


def test_pairs_without_a_value_are_left_out():
    correct = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]]).bool()
    assert diversity.error_correlation(correct).item() == pytest.approx(0)
    assert diversity.q_statistic(correct).item() == pytest.approx(0)
    assert diversity.kappa(correct).item() == pytest.approx(0)
    never_wrong = torch.ones(3, 4).bool()
    for measure in (diversity.error_correlation, diversity.q_statistic, diversity.kappa):
        assert measure(never_wrong).isnan()
    assert diversity.double_fault(never_wrong).item() == 0
