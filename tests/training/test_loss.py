"""The loss of a fit beside torch's and scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refusal
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from ensemble_transfer import Few, transfer_ensemble
from ensemble_transfer.training.loss import class_weights, loss_of
from ensemble_transfer.training.recipe import Recipe

LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
GIVEN = (0.5, 1.0, 4.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_is_torchs_with_a_mean_over_weights(smoothing, kind):
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    loss = loss_of(Recipe(1, label_smoothing=smoothing, class_weights=GIVEN), LABELS, 3)
    whole = loss(logits, LABELS)
    assert whole == cross_entropy(logits.float(), LABELS, torch.tensor(GIVEN), label_smoothing=smoothing)
    parts = zip(logits.split(5), LABELS.split(5), strict=True)
    assert sum(loss(x, y) * loss.share(y, LABELS) for x, y in parts) == pytest.approx(float(whole), abs=1e-6)
    assert whole != loss_of(Recipe(1, label_smoothing=smoothing), LABELS, 3)(logits, LABELS)


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert class_weights(Recipe(1, class_weights="balanced"), LABELS, 3).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("given", "phase"), [([1.0, 2.0], "full"), ([1.0] * 6, "head"), ("balanced", "tiny")])
def test_weights_that_do_not_suit_the_classes_are_refused_before_training(
    given, phase, source_ensemble, target_task, recipes
):
    known = target_task.train.labels.nonzero()[:, 0]  # no image is of class 0
    task = replace(target_task, train=target_task.train.take(known))
    weighted = replace(recipes, **{phase: replace(getattr(recipes, phase), class_weights=given)})
    error = refusal(transfer_ensemble, Few(1), source_ensemble, task, recipes=weighted)
    assert (error.setting, error.value) == (f"recipe.{phase}.class_weights", given)
