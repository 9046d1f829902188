import json
from itertools import combinations

import numpy as np
import pytest
from drawn import smooth
from sklearn.metrics import confusion_matrix

from ensemble_transfer.metrics.curves import curves
from ensemble_transfer.metrics.evaluate import evaluate


def accuracy(mean, labels):
    return np.mean(mean.argmax(1) == labels)


def nll(mean, labels):
    return -np.log(mean[np.arange(len(labels)), labels]).mean()


def test_json_holds_them():
    predictions = smooth(3, 40, 4)
    drawn = curves(predictions.array, predictions.label_array)
    assert json.loads(json.dumps(drawn, allow_nan=False)) == drawn
    names = ["reliability", "reliability_calibrated", "ensemble_size", "member_accuracy", "confusion"]
    assert list(drawn) == names


def test_a_member_that_cannot_choose_between_classes_is_counted_as_by_the_metrics():
    tie = np.array([[[0.5 - 1e-16, 0.5 + 2e-16]]])  # to 40 bits: then the first class is predicted
    assert tie[0, 0, 0] < tie[0, 0, 1]
    assert curves(tie, [0])["member_accuracy"] == [evaluate(tie, [0])["member/accuracy"]] == [1]


def test_the_confusion_matrix_is_sklearns_and_large_ones_are_left_out():
    predictions = smooth(3, 200, 5)
    found = curves(predictions.array, predictions.label_array)["confusion"]
    mean = predictions.array.mean(0)
    assert found == confusion_matrix(predictions.label_array, mean.argmax(1), labels=range(5)).tolist()
    assert sum(found[i][i] for i in range(5)) == 200 * accuracy(mean, predictions.label_array)
    many = smooth(2, 30, 101)
    assert "confusion" not in curves(many.array, many.label_array)


def test_after_the_temperature_curves_agree_with_the_metrics():
    test, held_out = smooth(3, 300, 4), smooth(3, 200, 4, seed=1)
    for validation in (None, (held_out.array, held_out.label_array)):
        drawn = curves(test.array, test.label_array, validation=validation)
        bins, size = drawn["reliability_calibrated"], drawn["ensemble_size"]
        gaps = zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True)
        found = evaluate(test.array, test.label_array, validation=validation)
        ece = sum(n / 300 * abs(right - sure) for n, right, sure in gaps if n)
        assert ece == pytest.approx(found["calibrated/ece"])
        assert size["calibrated_nll"][-1] == pytest.approx(found["calibrated/nll"])
        alone = []
        for member in range(3):
            own = validation and (held_out.array[[member]], held_out.label_array)
            alone.append(evaluate(test.array[[member]], test.label_array, validation=own)["calibrated/nll"])
        assert size["calibrated_nll"][0] == pytest.approx(np.mean(alone))


def test_ensemble_size_averages_over_all_subsets():
    predictions = smooth(5, 60, 4)
    drawn = curves(predictions.array, predictions.label_array)["ensemble_size"]
    assert drawn["size"] == [1, 2, 3, 4, 5]
    assert drawn["subsets"] == [5, 10, 10, 5, 1]
    for size in drawn["size"]:
        means = [predictions.array[list(chosen)].mean(0) for chosen in combinations(range(5), size)]
        for metric in (accuracy, nll):
            expected = np.mean([metric(mean, predictions.label_array) for mean in means])
            assert drawn[metric.__name__][size - 1] == pytest.approx(expected)


def test_ensemble_size_of_many_members_draws_different_subsets():
    predictions = smooth(7, 60, 4)
    first = curves(predictions.array, predictions.label_array)["ensemble_size"]
    assert first["subsets"] == [7, 20, 20, 20, 20, 7, 1]
    assert curves(predictions.array, predictions.label_array)["ensemble_size"] == first
    found = evaluate(predictions.array, predictions.label_array)
    for metric in ("accuracy", "nll"):
        assert first[metric][0] == pytest.approx(found[f"member/{metric}"])
        assert first[metric][-1] == pytest.approx(found[f"ensemble/{metric}"])
    for size in (3, 4):
        means = [predictions.array[list(chosen)].mean(0) for chosen in combinations(range(7), size)]
        everything = [nll(mean, predictions.label_array) for mean in means]
        drawn = first["nll"][size - 1]
        assert drawn != pytest.approx(np.mean(everything), abs=1e-12)
        assert drawn == pytest.approx(np.mean(everything), abs=np.std(everything))
