from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.models.backbone import Classifier
from ensemble_transfer.training.batches import drawn
from ensemble_transfer.training.features import encode, views
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.trained_part import HeadOnFeatures, WholeMember, loaded

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def architecture(backbone):
    return backbone.architecture(8, 1, 5)


def epoch(batches, steps):
    """Return inputs and labels of the first steps, (members, examples, ...)."""
    inputs, labels = zip(*(batches[step] for step in range(steps)), strict=True)
    return torch.cat(inputs, 1), torch.cat(labels, 1)


def places(found, features):
    """Return where each of the found features stands among others."""
    return [(features == row).all(-1).nonzero()[0, 0].item() for row in found]


def test_every_view_goes_with_the_label_of_its_image(architecture, target_task):
    data, weights = target_task.train, architecture.initial(0)
    recipe = Recipe(5, batch_size=60, augment="crop", views=3)
    batches = HeadOnFeatures(architecture).batches([weights, weights], data, recipe, [4, 5], CPU)
    assert batches.encoded == [3 * len(data)] * 2
    shown, labels = epoch(batches, 5)
    assert bool((shown[..., -1] == 1).all())  # for the bias
    for member, seed in enumerate([4, 5]):
        seen = torch.empty(3 * len(data), architecture.features)
        encode(loaded(architecture, weights), views(data.images, recipe, seed), CPU, seen)
        at = places(shown[member, :, :-1], seen)
        assert len(set(at)) > 2 * len(data)
        assert torch.equal(labels[member], data.labels[torch.tensor(at) % len(data)])
    assert not torch.equal(shown[0].sort(0).values, shown[1].sort(0).values)  # views are a member's own


@pytest.mark.parametrize(
    "recipe", [Recipe(2, batch_size=7), Recipe(3, batch_size=25, augment="flip", views=2)], ids=str
)
def test_a_head_encodes_what_its_steps_draw(architecture, target_task, recipe, monkeypatch):
    data, weights, encoded = target_task.train, architecture.initial(0), []
    encode = Classifier.encode
    monkeypatch.setattr(Classifier, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    batches = HeadOnFeatures(architecture).batches([weights] * 2, data, recipe, [1, 2], CPU)
    drawn = recipe.steps * recipe.batch_size
    assert sum(encoded) == 2 * drawn
    assert batches.encoded == [drawn, drawn]
    assert HeadOnFeatures(architecture).prepared(len(data), recipe) == drawn
    inputs, labels = epoch(batches, recipe.steps)
    whole = HeadOnFeatures(architecture).batches([weights] * 2, data, replace(recipe, steps=1000), [1, 2], CPU)
    wanted, wanted_labels = epoch(whole, recipe.steps)
    assert torch.equal(labels, wanted_labels)
    if recipe.augment == "none":  # views are drawn anew where others are drawn
        torch.testing.assert_close(inputs, wanted, rtol=1e-5, atol=1e-6)


@given(st.integers(2, 60), st.integers(1, 70), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**62))
def test_what_is_prepared_is_known_beforehand_but_for_what_no_epoch_draws(examples, batch_size, steps, views, seed):
    recipe = Recipe(steps, batch_size, augment="flip" if views > 1 else "none", views=views)
    most, shown = HeadOnFeatures(None).prepared(examples, recipe), examples * views
    seen = len(drawn(seed, shown, batch_size, steps))
    size = min(batch_size, shown)
    assert seen <= most == min(steps * size, shown)
    assert most - seen < max(1, shown % size + 1)
    if steps <= shown // size or shown % size == 0:
        assert seen == most


def test_a_trained_head_goes_back_behind_its_encoder(architecture):
    weights, part = architecture.initial(0), HeadOnFeatures(architecture)
    weights["head.bias"] = torch.arange(5.0)
    back = part.weights(weights, part.module(weights).state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


def test_whole_members_share_the_images(architecture, target_task):
    weights = architecture.initial(0)
    batches = WholeMember(architecture).batches(
        [weights] * 2, target_task.train, Recipe(1, augment="crop"), [1, 2], CPU
    )
    assert all(member is target_task.train.images for member in batches.inputs)
    assert batches.augment == "crop"
