"""What a diagnosis of a shift measures, and what it does not do twice."""

import pytest
import scipy.stats

from ensemble_transfer.models.backbone import Classifier
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.transfer.shift.diagnostics import ShiftedMembers, diagnose_shift
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.weights import joined


@pytest.fixture(scope="module")
def result(source_ensemble, target_task, recipes, fitter):
    """A shift of two members by one donor."""
    return Shift().run(Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter))


@pytest.fixture
def work(source_ensemble, target_task, recipes, settings):
    """A workbench that remembers no fit."""
    return Workbench(source_ensemble, target_task.sealed(), 0, recipes, Fitter(settings))


@pytest.fixture
def members(result):
    return ShiftedMembers({0: result.ensemble.members[0]}, result.shifted, result.donor_heads)


def test_accuracies_are_those_of_whole_members(work, result, members):
    metrics = diagnose_shift(work, result.shift, members)
    ways = {"": members.shifted, "_no_shift": work.reestimate_statistics({m: work.encoders[m] for m in (1, 2)})}
    for name, encoders in ways.items():
        zero_shot = [joined(encoder=encoder, head=members.donor_heads[m]) for m, encoder in encoders.items()]
        probed = work.probe(work.with_fresh_heads(encoders, "tiny")).weights
        image = 1 / (2 * len(work.target.validation))
        for key, whole in (("zero_shot", zero_shot), ("probe", probed)):
            expected = work.validation_accuracy(whole)
            assert metrics[f"shift/{key}_accuracy{name}"] == pytest.approx(expected, abs=1.01 * image)


def test_every_encoder_sees_the_validation_images_once(work, result, members, monkeypatch):
    seen, encode = [], Classifier.encode

    def counted(self, images):
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Classifier, "encode", counted)
    diagnose_shift(work, result.shift, members)
    validation, encoders = len(work.target.validation), 3 * 2
    assert seen.count(validation) == encoders


def test_gains_have_errors_that_are_paired_by_image(work, result, members):
    metrics = diagnose_shift(work, result.shift, members)
    labels, right = work.target.validation.labels, {}
    before = {member: work.encoders[member] for member in members.shifted}
    for name, encoders in (("", members.shifted), ("_no_shift", work.reestimate_statistics(before))):
        probed = work.probe(work.with_fresh_heads(encoders, "tiny")).weights
        right[name] = (work.look(probed).argmax(-1) == labels).double().mean(0).numpy()
    gain = right[""] - right["_no_shift"]
    assert metrics["shift/probe_gain"] == pytest.approx(gain.mean(), abs=0.02)
    assert metrics["shift/probe_gain_error"] == pytest.approx(scipy.stats.sem(gain), rel=0.25)
    assert metrics["shift/probe_gain_over_random_error"] > 0
