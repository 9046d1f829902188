from itertools import pairwise

import pytest
import torch
from refusals import refusal

from ensemble_transfer.tasks import corruptions
from ensemble_transfer.tasks.corruptions import CORRUPTIONS, corrupt
from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.tasks.limits import SEVERITIES

SHAPES = [(28, 1), (64, 3)]


@pytest.fixture(scope="module")
def images():
    pool = {size: MnistSample(train=10, validation=10, test=60).load(size, 1).test.images for size in (28, 64)}
    return {(size, channels): pool[size].repeat(1, channels, 1, 1) for size, channels in SHAPES}


def distance(one, other):
    return float((one.float() - other.float()).square().mean().sqrt())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_grows_and_shape_and_type_stay(images, name, shape):
    clean = images[shape]
    before = clean.clone()
    worse = [corrupt(clean, name, severity) for severity in SEVERITIES]
    assert torch.equal(clean, before)
    assert all(each.shape == clean.shape and each.dtype == torch.uint8 for each in worse)
    distances = [0.0] + [distance(each, clean) for each in worse]
    assert all(low < high for low, high in pairwise(distances)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides(images, name):
    clean = images[28, 1]
    one, same, other = (corrupt(clean, name, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    random = name not in ("gaussian_blur", "contrast", "brightness", "jpeg")
    assert torch.equal(one, other) != random


@pytest.mark.parametrize("name", ["gaussian_blur", "rotation", "translation", "occlusion"])
def test_lengths_scale_with_the_image(images, name):
    small, large = images[28, 1], images[64, 3][:, :1]
    ratio = distance(corrupt(large, name, 4), large) / distance(corrupt(small, name, 4), small)
    assert 0.8 < ratio < 1.25


def test_directions_and_places_differ_between_images(images):
    same = images[28, 1][:1].repeat(40, 1, 1, 1)
    for name, kinds in (("rotation", 2), ("translation", 4)):
        assert len({each.numpy().tobytes() for each in corrupt(same, name, 3)}) == kinds
    assert len({each.numpy().tobytes() for each in corrupt(same, "occlusion", 3)}) > 20


def test_occlusion_covers_the_stated_area():
    black = torch.zeros(20, 3, 50, 50, dtype=torch.uint8)
    for severity, side in zip(SEVERITIES, (10, 15, 20, 25, 30), strict=True):
        covered = corrupt(black, "occlusion", severity)
        assert ((covered == 127).sum((2, 3)) == side**2).all()


def test_translation_loses_nothing_it_should_not():
    dot = torch.zeros(8, 1, 25, 25, dtype=torch.uint8)
    dot[:, :, 12, 12] = 255
    found = corrupt(dot, "translation", 5).nonzero()[:, 2:] - 12
    assert found.abs().tolist() == [[5, 5]] * 8


def test_large_sets_are_handled_in_pieces(images, monkeypatch):
    clean = images[28, 1]
    whole = corrupt(clean, "rotation", 2)
    monkeypatch.setattr(corruptions, "CHUNK", 28 * 28 * 7)
    pieces = corrupt(clean, "rotation", 2)
    assert pieces.shape == whole.shape
    assert torch.equal(pieces[:7], corrupt(clean[:7], "rotation", 2))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "fog"}, "name='fog': must be one of gaussian_noise, shot_noise, impulse_noise"),
        ({"severity": 0}, "severity=0: must be a whole number from 1 to 5"),
        ({"images": torch.zeros(2, 1, 8, 8)}, "images='torch.float32 (2, 1, 8, 8)': must be uint8 of shape"),
    ],
)
def test_what_cannot_be_corrupted(arguments, text):
    settings = {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "name": "jpeg", "severity": 1}
    assert text in str(refusal(corrupt, **{**settings, **arguments}))
