"""Fits and predictions on images of a mapped file are those on images in memory, bit for bit."""

import pytest
import torch
from fits import assert_same
from pictures import write_pictures
from same import equal

from ensemble_transfer import Ensemble, ImageFolder, Recipe
from ensemble_transfer.tasks.chosen import ChosenImages
from ensemble_transfer.training.features import reestimated_statistics, statistics_images
from ensemble_transfer.weights import below

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, target_task):
    """The same task, its images in memory and mapped."""
    root, split = tmp_path_factory.mktemp("photos"), target_task.train
    write_pictures(root, split.images, [f"class {label}" for label in split.labels])
    cache = str(root.parent / "cache")
    return [ImageFolder(str(root), memory=where, cache=cache).load(8, 1) for where in ("ram", "disk")]


@pytest.mark.parametrize("heads", [False, True])
def test_fits_are_the_same(tasks, train, heads):
    recipe = Recipe(6, batch_size=16, augment="crop", views=2 if heads else 1)
    assert isinstance(tasks[1].train.images, ChosenImages)
    assert_same(*(train(range(2), recipe, task=task, heads=heads) for task in tasks))


def test_predictions_and_statistics_are_the_same(tasks, architecture):
    ensemble = Ensemble(architecture, (architecture.initial(0),), tasks[0].classes)
    encoder = below(architecture.initial(0), "encoder")
    predicted, statistics = [], []
    for task in tasks:
        images = task.train.images
        predicted.append(ensemble.predict(images, batch_size=7))
        chosen = statistics_images(images, 20, 1)
        statistics += [reestimated_statistics(architecture, encoder, of, CPU) for of in (chosen, images)]
    assert torch.equal(*predicted)
    assert all(map(equal, statistics[:2], statistics[2:]))
