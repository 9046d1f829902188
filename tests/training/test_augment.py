import random

import pytest
import torch

from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.training.augment import AUGMENTATIONS, augmented
from ensemble_transfer.training.batches import Batches


@pytest.fixture(scope="module")
def digits():
    return MnistSample(train=40, validation=10, test=10).load(28, 1).train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_keep_shape_and_type_and_the_originals_stay(digits, name):
    images = digits.images.repeat(1, 3, 1, 1)
    before = images.clone()
    changed = augmented(images, name, generator())
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert not torch.equal(changed, images)
    if name != "trivial":
        assert torch.equal(changed[:, 0], changed[:, 2])
    same = digits.images[:1].repeat(40, 1, 1, 1)  # each image is changed in a way of its own
    assert len(augmented(same, name, generator()).flatten(1).unique(dim=0)) >= (2 if name == "flip" else 4)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_randomness_gives_the_same_images_whatever_the_global_state(digits, name):
    one = augmented(digits.images, name, generator(3))
    torch.rand(5)
    random.seed(9)
    before = torch.get_rng_state()
    assert torch.equal(augmented(digits.images, name, generator(3)), one)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(augmented(digits.images, name, generator(4)), one)


def test_a_flip_mirrors_half_of_the_images(digits):
    changed = augmented(digits.images, "flip", generator())
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(changed, digits.images, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(changed, digits.images, strict=True)]
    assert all(one or other for one, other in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 32


def test_a_crop_moves_by_an_eighth_at_most(digits):
    padded = torch.nn.functional.pad(digits.images.float(), [3] * 4, mode="replicate").byte()
    windows = padded.unfold(2, 28, 1).unfold(3, 28, 1)[:, 0]  # (40, 7, 7, 28, 28)
    moves = set()
    for seed in range(5):
        changed = augmented(digits.images, "crop", generator(seed))
        found = (windows == changed[:, :, None]).all((-1, -2))
        assert found.any((1, 2)).all()
        moves.update(map(tuple, found.nonzero()[:, 1:].tolist()))
    assert len(moves) == 49


@pytest.mark.parametrize("name", ["crop_flip", "trivial"])
def test_a_members_augmentations_do_not_depend_on_its_neighbours_or_the_order_of_steps(digits, name):
    def batches(seeds):
        return Batches(digits.images, digits.labels, 8, seeds, name)

    together, alone = batches([5, 6, 7]), batches([6])
    expected = [together[step][0][1] for step in range(12)]
    for step in (11, 3, 0, 7):
        assert torch.equal(alone[step][0][0], expected[step])


def test_an_image_is_changed_anew_in_every_epoch(digits):
    data = Batches(digits.images[:8], digits.labels[:8], 8, [1], "crop")
    seen = [image.numpy().tobytes() for step in range(6) for image in data[step][0][0]]
    assert len(set(seen)) > 40
