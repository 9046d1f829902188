from dataclasses import replace

import pytest
import timm
import torch
from same import equal

from ensemble_transfer import Architecture, Recipe
from ensemble_transfer.training.features import (
    encode,
    features,
    is_statistic,
    reestimated_statistics,
    statistics_images,
    views,
)
from ensemble_transfer.weights import below, copied

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(source_ensemble):
    return below(source_ensemble.members[0], "encoder")


def classifier_of(architecture, encoder):
    classifier = architecture.build()
    classifier.encoder.load_state_dict(encoder)
    return classifier


def test_features_are_those_of_an_evaluation_forward(architecture, encoder, target_task):
    images = target_task.train.images
    seen = features(classifier_of(architecture, encoder).train(), images, CPU)
    plain = timm.create_model("resnet10t", in_chans=1, num_classes=0, **architecture.options).eval()
    plain.load_state_dict(encoder)
    with torch.no_grad():
        expected = plain((images / 255 - 0.5) / 0.5)
    assert seen.shape == (len(images), 8)
    assert seen.std(0).max() > 1e-3
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=1e-5)


def features_of_views(classifier, images, recipe, seed):
    found = torch.empty(recipe.views * len(images), classifier.head.in_features)
    encode(classifier, views(images, recipe, seed), CPU, found)
    return found


def test_features_of_views_are_those_of_changed_images_view_after_view(architecture, encoder, target_task):
    images = target_task.train.images[:20]
    classifier = classifier_of(architecture, encoder)
    seen = features_of_views(classifier, images, Recipe(1, augment="crop", views=3), seed=1)
    assert seen.shape == (60, 8)
    assert torch.equal(features_of_views(classifier, images, Recipe(1, augment="crop", views=3), seed=1), seen)
    assert not torch.equal(features_of_views(classifier, images, Recipe(1, augment="crop", views=3), seed=2), seen)
    assert len(seen[[0, 20, 40]].unique(dim=0)) == 3
    flipped = features_of_views(classifier, images, Recipe(1, augment="flip", views=2), seed=1)
    kinds = torch.stack([features(classifier, images, CPU), features(classifier, images.flip(-1), CPU)])
    for view in flipped.split(20):
        assert ((view - kinds).abs().amax(-1) < 1e-5).any(0).all()
    assert ((flipped[:20] - flipped[20:]).abs().amax(-1) > 1e-4).any()


def first_layer(encoder, images):
    """What the first convolution gives the first BatchNorm, by hand."""
    scaled = (images / 255 - 0.5) / 0.5
    return torch.nn.functional.conv2d(scaled, encoder["conv1.0.weight"], stride=2, padding=1)


def test_statistics_of_one_batch_are_the_mean_and_variance_that_the_layer_sees(architecture, encoder, target_task):
    images = target_task.train.images
    again = reestimated_statistics(architecture, encoder, images, CPU)
    seen = first_layer(encoder, images)
    torch.testing.assert_close(again["conv1.1.running_mean"], seen.mean((0, 2, 3)))
    torch.testing.assert_close(again["conv1.1.running_var"], seen.var((0, 2, 3), unbiased=True))
    deviation = torch.sqrt(seen.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5)
    normalised = (seen - seen.mean((0, 2, 3), keepdim=True)) / deviation
    gain, offset = (encoder[f"conv1.1.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
    active = (normalised * gain + offset).relu()
    second = torch.nn.functional.conv2d(active, encoder["conv1.3.weight"], padding=1)
    torch.testing.assert_close(again["conv1.4.running_mean"], second.mean((0, 2, 3)))


def test_statistics_of_several_batches_weigh_every_batch_alike(architecture, encoder, target_task):
    images = target_task.train.images.repeat(6, 1, 1, 1)[:600]
    again = reestimated_statistics(architecture, encoder, images, CPU)
    parts = [first_layer(encoder, images[start : start + 200]) for start in (0, 200, 400)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    torch.testing.assert_close(again["conv1.1.running_mean"], mean)
    assert again["conv1.1.num_batches_tracked"] == 3


def test_only_statistics_change_and_all_of_them_do(architecture, encoder, target_task):
    before = copied(encoder)
    again = reestimated_statistics(architecture, encoder, target_task.train.images, CPU)
    dropping = replace(architecture, options=dict(architecture.options) | {"drop_path_rate": 0.9})
    with_drops = reestimated_statistics(dropping, encoder, target_task.train.images, CPU)
    assert equal(with_drops, again)  # others stay in evaluation mode
    assert again.keys() == encoder.keys()
    assert {name for name in again if not torch.equal(again[name], encoder[name])} == {
        name for name in encoder if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert equal(encoder, before)


@pytest.mark.parametrize("most", [30, 99])
def test_statistics_are_estimated_on_some_images_each_at_most_once(target_task, most):
    images = target_task.train.images
    some = statistics_images(images, most, seed=1)
    assert (len(some), some.dtype) == (most, torch.uint8)
    kept = [images[place] for place in range(len(images)) if any(torch.equal(images[place], own) for own in some)]
    assert torch.equal(torch.stack(kept), some)  # in their order
    assert torch.equal(statistics_images(images, most, seed=1), some)
    assert not torch.equal(statistics_images(images, most, seed=2), some)
    assert all(statistics_images(images, all_of_them, seed=1) is images for all_of_them in (None, 100, 1000))


def test_an_encoder_without_batchnorm_comes_back_as_it_was(target_task):
    options = {"img_size": 8, "patch_size": 4, "drop_path_rate": 0.9}
    described = Architecture("test_vit", options, 8, 1, 5, (0.5,), (0.5,))
    encoder = below(described.initial(0), "encoder")
    assert not any(is_statistic(name) for name in encoder)
    assert equal(reestimated_statistics(described, encoder, target_task.train.images, CPU), encoder)
