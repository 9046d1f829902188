"""Fits and predictions on images of a mapped file are those on images in memory, bit for bit."""

import pytest
import torch
from PIL import Image

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.chosen import ChosenImages
from ensemble_transfer.tasks.folder import ImageFolder
from ensemble_transfer.training.features import reestimated_statistics, statistics_images
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.weights import below

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, target_task):
    """The same task, its images in memory and mapped."""
    root = tmp_path_factory.mktemp("photos")
    for place, (image, label) in enumerate(
        zip(target_task.train.images, target_task.train.labels.tolist(), strict=True)
    ):
        folder = root / f"class {label}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{place:04}.png")
    cache = str(root.parent / "cache")
    return [ImageFolder(str(root), memory=where, cache=cache).load(8, 1) for where in ("ram", "disk")]


def test_fits_are_the_same(tasks, backbone, settings):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(2)]
    found = []
    for task in tasks:
        fitter = Fitter(settings)
        recipe = Recipe(6, batch_size=16, augment="crop", views=2)
        whole = fitter.fit(architecture, starts, task.train, Recipe(6, batch_size=16, augment="crop"), "full").weights
        found.append([*whole, *fitter.fit_heads(architecture, starts, task.train, recipe, "head").weights])
    assert isinstance(tasks[1].train.images, ChosenImages)
    assert all(torch.equal(one[name], other[name]) for one, other in zip(*found, strict=True) for name in one)


def test_predictions_and_statistics_are_the_same(tasks, backbone):
    architecture = backbone.architecture(8, 1, 5)
    ensemble = Ensemble(architecture, (architecture.initial(0),), tasks[0].classes)
    encoder = below(architecture.initial(0), "encoder")
    predicted, statistics = [], []
    for task in tasks:
        images = task.train.images
        predicted.append(ensemble.predict(images, batch_size=7))
        chosen = statistics_images(images, 20, 1)
        statistics += [reestimated_statistics(architecture, encoder, of, CPU) for of in (chosen, images)]
    assert torch.equal(*predicted)
    for one, other in zip(statistics[:2], statistics[2:], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
