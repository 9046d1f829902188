import numpy as np
import pytest
import torch
from refusals import refusal

from ensemble_transfer import Calibration, open_saved
from ensemble_transfer.inference.calibration import decide
from ensemble_transfer.inference.cascade import ONE_IN, choose_cascade, in_stages
from ensemble_transfer.inference.predict import Answers, predict_rows
from ensemble_transfer.inference.saved import SavedEnsemble


def drawn(examples=1500, members=3):
    """Predictions of members that know most examples, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=examples)
    known = 9 * rng.random((examples, 1)) * np.eye(5)[labels]
    logits = rng.normal(size=(members, examples, 5)) + known
    return torch.from_numpy(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).float(), torch.from_numpy(labels)


def calibrated(ensemble, networks=()):
    return SavedEnsemble("here", ensemble, Calibration.fit(*drawn(), networks))


def stages(probabilities, temperature, groups):
    """Confidence and label after each network, by NumPy."""
    for end in range(1, len(groups) + 1):
        mean = probabilities.double().numpy()[np.concatenate(groups[:end])].mean(0) ** (1 / temperature)
        yield (mean / mean.sum(-1, keepdims=True)).max(-1), mean.argmax(-1)


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0, 2], [1]]])
def test_a_calibration_knows_what_the_first_networks_predict(groups):
    probabilities, labels = drawn(100)
    known = Calibration.fit(probabilities, labels, groups)
    for stage, (sure, label) in enumerate(stages(probabilities, known.temperature, groups)):
        np.testing.assert_allclose(known.stage_confidence[stage], sure, atol=1e-6)
        assert known.stage_correct[stage].tolist() == (label == labels.numpy()).tolist()
    assert len(known.stage_confidence) == len(groups)


def test_the_cascade_runs_few_networks_and_loses_no_more_than_one_image_in_500(source_ensemble):
    saved = calibrated(source_ensemble)
    known, cascade = saved.calibration, choose_cascade(saved)

    def outcome(threshold):
        sure = (known.stage_confidence >= threshold).numpy() | np.array([[False], [False], [True]])
        last = sure.argmax(0)
        return known.stage_correct.numpy()[last, range(len(last))], last + 1

    correct, networks = outcome(cascade.threshold)
    whole = known.correct.numpy()
    assert (whole & ~correct).sum() <= 1500 / ONE_IN
    assert cascade.networks == pytest.approx(networks.mean())
    assert cascade.networks < 2.5
    assert cascade.calibration.correct.tolist() == correct.tolist()
    lower = np.quantile(known.stage_confidence[:-1], np.linspace(0, 1, 500))
    assert (whole & ~outcome(lower[lower < cascade.threshold].max())[0]).sum() > 1500 / ONE_IN
    assert f"{networks.mean():.2f} of 3 networks an image and accuracy {correct.mean():.4f}" in cascade.about


def test_images_go_on_until_the_networks_are_sure(source_ensemble, source_task):
    saved, images = calibrated(source_ensemble), source_task.test.images
    alone = source_ensemble.predict(images)
    each = list(stages(alone, saved.temperature, [[0], [1], [2]]))
    threshold = float(np.quantile(each[0][0], 0.6))
    rows = predict_rows(saved, images, Answers(cascade=threshold))
    for place, row in enumerate(rows):
        last = next((stage for stage in (0, 1) if each[stage][0][place] >= threshold), 2)
        assert row["networks"] == last + 1
        assert row["probability"] == pytest.approx(each[last][0][place], abs=1e-5)
        assert row["label"] == source_task.classes[each[last][1][place]]
        assert row["disagreement"] == 0 or last
    assert {row["networks"] for row in rows} >= {1, 3}
    [(number, places, members)] = in_stages(saved, images, float("inf"))
    assert (number, places.tolist()) == (3, list(range(60)))
    np.testing.assert_allclose(members, alone, atol=1e-5)
    plain = predict_rows(saved, images)
    expected = decide(alone, saved.temperature).confidence
    np.testing.assert_allclose([row["probability"] for row in plain], expected, atol=1e-5)


def test_one_network_or_no_validation_is_refused(source_ensemble):
    one = type(source_ensemble)(source_ensemble.architecture, source_ensemble.members[:1], source_ensemble.classes)
    for ensemble, known, rule in (
        (one, Calibration.fit(*drawn(members=1)), "needs two networks or more"),
        (source_ensemble, None, "needs the validation predictions"),
    ):
        refused = refusal(choose_cascade, SavedEnsemble("here", ensemble, known))
        assert refused.setting == "cascade"
        assert refused.rule.startswith(rule)


def test_a_saved_ensemble_brings_its_cascade(photographs):
    assert choose_cascade(open_saved(photographs.run)).networks <= 2
