"""The loss of a network whose BatchNorm normalises by the images themselves."""

from dataclasses import replace

import pytest
import torch
from same import equal
from torch.nn.functional import cross_entropy, nll_loss

from ensemble_transfer.transfer.shift.diagnostics import batch_loss

CPU = torch.device("cpu")


def test_the_running_statistics_do_not_matter_and_stay(source_ensemble, source_task):
    weights, split = dict(source_ensemble.members[0]), source_task.validation
    loss, accuracy = batch_loss(source_ensemble.architecture.classifier(weights), split.images, split.labels, CPU)
    ruined = {n: t + 7 if n.endswith(("running_mean", "running_var")) else t for n, t in weights.items()}
    before = {name: tensor.clone() for name, tensor in ruined.items()}
    again = batch_loss(source_ensemble.architecture.classifier(ruined), split.images, split.labels, CPU)
    assert again == (loss, accuracy)
    assert equal(before, ruined)


def test_it_is_cross_entropy_and_accuracy_of_a_network_in_training_mode(source_ensemble, source_task):
    split = source_task.validation
    classifier = source_ensemble.classifier(0).train()
    with torch.no_grad():
        logits = classifier(split.images)
    loss, accuracy = batch_loss(source_ensemble.classifier(0), split.images, split.labels, CPU)
    assert loss == pytest.approx(float(cross_entropy(logits, split.labels)), abs=1e-6)
    assert accuracy == float((logits.argmax(1) == split.labels).double().mean())


def test_more_images_than_a_batch_holds_are_dealt_out_evenly(source_ensemble, source_task):
    validation = source_task.validation
    many = validation.take(torch.arange(257) % len(validation))
    loss, _ = batch_loss(source_ensemble.classifier(0), many.images, many.labels, CPU)
    halves = [
        batch_loss(source_ensemble.classifier(0), half.images, half.labels, CPU)[0] * len(half)
        for half in (many.take(torch.arange(129)), many.take(torch.arange(129, 257)))
    ]
    assert loss == pytest.approx(sum(halves) / 257, abs=1e-6)


def test_a_single_image_is_normalised_by_the_running_statistics(source_ensemble, source_task):
    images, labels = source_task.validation.images[:1], source_task.validation.labels[:1]
    loss, _ = batch_loss(source_ensemble.classifier(0), images, labels, CPU)
    probability = source_ensemble.predict(images)[0, 0, labels[0]]
    assert loss == pytest.approx(-float(probability.log()), abs=1e-5)


def test_frozen_statistics_are_the_running_ones(source_ensemble, source_task):
    split = source_task.validation
    [probabilities] = replace(source_ensemble, members=source_ensemble.members[:1]).predict(split.images)
    frozen, usual = (
        batch_loss(source_ensemble.classifier(0), split.images, split.labels, CPU, f) for f in (True, False)
    )
    assert frozen[0] == pytest.approx(float(nll_loss(probabilities.log(), split.labels)), abs=1e-5)
    assert frozen[1] == float((probabilities.argmax(1) == split.labels).double().mean())
    assert frozen[0] != pytest.approx(usual[0], abs=1e-4)
