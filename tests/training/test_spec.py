"""What a fit trains, what it costs, and the memory that it needs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from same import equal
from torch import nn

from ensemble_transfer.models.architecture import Classifier
from ensemble_transfer.training.batches import drawn
from ensemble_transfer.training.features import encode, views
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec, Start, graph_bytes, most_encoded

CPU = torch.device("cpu")


@pytest.fixture
def spec(backbone, target_task):
    return FitSpec(backbone.architecture(8, 1, 5), target_task.train, Recipe(1), "any", heads=True)


def starts_of(spec, seeds):
    return [Start(0, spec.architecture.initial(0), seed) for seed in seeds]


def epoch(batches, steps):
    """Return inputs and labels of the first steps, (members, examples, ...)."""
    inputs, labels = zip(*(batches[step] for step in range(steps)), strict=True)
    return torch.cat(inputs, 1), torch.cat(labels, 1)


def places(found, features):
    """Return where each of the found features stands among others."""
    return [(features == row).all(-1).nonzero()[0, 0].item() for row in found]


def test_every_view_goes_with_the_label_of_its_image(spec):
    recipe = Recipe(5, batch_size=60, augment="crop", views=3)
    batches, encoded = replace(spec, recipe=recipe).batches(starts_of(spec, [4, 5]), CPU)
    data = spec.data
    assert encoded == [3 * len(data)] * 2
    shown, labels = epoch(batches, 5)
    assert bool((shown[..., -1] == 1).all())  # for the bias
    for member, seed in enumerate([4, 5]):
        seen = torch.empty(3 * len(data), spec.architecture.features)
        classifier = spec.architecture.classifier(spec.architecture.initial(0))
        encode(classifier, views(data.images, recipe, seed), CPU, seen)
        at = places(shown[member, :, :-1], seen)
        assert len(set(at)) > 2 * len(data)
        assert torch.equal(labels[member], data.labels[torch.tensor(at) % len(data)])
    assert not torch.equal(shown[0].sort(0).values, shown[1].sort(0).values)  # views are a member's own


@pytest.mark.parametrize(
    "recipe", [Recipe(2, batch_size=7), Recipe(3, batch_size=25, augment="flip", views=2)], ids=str
)
def test_a_head_encodes_what_its_steps_draw(spec, recipe, monkeypatch):
    seen, encode, starts = [], Classifier.encode, starts_of(spec, [1, 2])
    monkeypatch.setattr(Classifier, "encode", lambda self, images: seen.append(len(images)) or encode(self, images))
    batches, encoded = replace(spec, recipe=recipe).batches(starts, CPU)
    drawn = recipe.steps * recipe.batch_size
    assert sum(seen) == 2 * drawn
    assert encoded == [drawn, drawn]
    inputs, labels = epoch(batches, recipe.steps)
    whole, _ = replace(spec, recipe=replace(recipe, steps=1000)).batches(starts, CPU)
    wanted, wanted_labels = epoch(whole, recipe.steps)
    assert torch.equal(labels, wanted_labels)
    if recipe.augment == "none":  # views are drawn anew where others are drawn
        torch.testing.assert_close(inputs, wanted, rtol=1e-5, atol=1e-6)


@given(st.integers(2, 60), st.integers(1, 70), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**62))
def test_what_is_encoded_is_known_beforehand_but_for_what_no_epoch_draws(examples, batch_size, steps, views, seed):
    recipe = Recipe(steps, batch_size, augment="flip" if views > 1 else "none", views=views)
    most, shown = most_encoded(recipe, examples), examples * views
    seen = len(drawn(seed, shown, batch_size, steps))
    size = min(batch_size, shown)
    assert seen <= most == min(steps * size, shown)
    assert most - seen < max(1, shown % size + 1)
    if steps <= shown // size or shown % size == 0:
        assert seen == most


def test_a_trained_head_goes_back_behind_its_encoder(spec):
    weights = spec.architecture.initial(0)
    weights["head.bias"] = torch.arange(5.0)
    back = spec.weights(weights, spec.module(weights).state_dict())
    assert equal(back, weights)


def test_the_graph_of_a_linear_net_is_its_inputs_weights_and_activations():
    net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.Sigmoid(), nn.Linear(50, 10, bias=False))
    inputs, hidden, second = 8 * 100, 8 * 50, 50 * 10
    assert graph_bytes(net, torch.empty(8, 100, device="meta")) == 4 * (inputs + hidden + second)


@pytest.mark.parametrize(
    ("free", "vectorised", "members"), [(1000, False, 35), (1000, True, 6), (100, False, 1), (0, True, 1)]
)
def test_members_that_fit_hold_one_graph_together_or_one_each(spec, monkeypatch, free, vectorised, members):
    monkeypatch.setattr(FitSpec, "need", lambda _: (20, 100))
    assert replace(spec, heads=False).members_that_fit(free, vectorised) == members


def test_heads_fit_whose_features_do(spec):
    spec = replace(spec, recipe=Recipe(2, batch_size=30))
    features = 4 * 60 * (spec.architecture.features + 1)
    assert [spec.members_that_fit(int(times * features / 0.8), False) for times in (0.5, 3.1, 7.9)] == [1, 3, 7]
