"""A training step makes the host wait for nothing, and copies at most once."""

import pytest
from pretend_cuda import counted, total
from waits import per_step

from ensemble_transfer.training.recipe import Recipe

AUGMENTATIONS = ["none", "flip", "crop", "crop_flip", "resized_crop"]


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_a_step_waits_for_nothing_and_copies_at_most_once(executor, augment):
    found = per_step(Recipe(0, augment=augment), members=3, executor=executor)
    assert found.waits <= 0.05, found.counts  # a point of the curve in the longer fit
    assert found.copies <= 1.05, found.counts
    assert found.copies_once < 70, found.counts  # 50 points of the curve, data and weights: none by member


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"clip": 1.0}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_no_setting_of_a_recipe_makes_a_step_wait(executor, changes):
    found = per_step(Recipe(0, **changes), members=2, executor=executor)
    assert found.waits <= 0.05, found.counts
    assert found.copies <= 0.3, found.counts  # the order of an epoch, which has 6 steps


def test_a_prediction_sends_its_images_once_for_all_members(source_ensemble, target_task):
    images = target_task.test.images
    source_ensemble.predict(images, "cuda")
    with counted() as counts:
        source_ensemble.predict(images, "cuda", batch_size=10)
    assert total(counts, "copy") == 1 + 2 * len(source_ensemble), counts  # images; weights and probabilities by member
