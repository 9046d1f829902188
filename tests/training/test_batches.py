import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.training.batches import Batches, augmented, drawn
from ensemble_transfer.training.recipe import AUGMENTATIONS

LABELS = torch.arange(10) * 7


def batches(seeds, batch_size=3):
    return Batches(torch.arange(10), LABELS, batch_size, seeds)


def epoch(data, number, per_epoch):
    """Inputs of an epoch, (members, examples)."""
    return torch.cat([data[number * per_epoch + step][0] for step in range(per_epoch)], dim=1)


@given(st.integers(0, 2**63 - 1), st.integers(0, 50), st.sampled_from([1, 2, 5, 10, 1000]))
def test_each_epoch_is_a_permutation(seed, number, batch_size):
    seen = epoch(batches([seed], batch_size), number, max(1, 10 // batch_size))
    assert sorted(seen.flatten().tolist()) == list(range(10))


def test_what_is_left_after_the_last_whole_batch_is_dropped():
    data = batches([1])
    seen = [epoch(data, number, 3)[0].tolist() for number in range(20)]
    assert all(len(set(examples)) == 9 for examples in seen)
    left = {(set(range(10)) - set(examples)).pop() for examples in seen}
    assert len(left) > 1


def test_epochs_and_members_have_orders_of_their_own():
    data = batches([1, 2], batch_size=10)
    orders = {tuple(row.tolist()) for step in range(5) for row in data[step][0]}
    assert len(orders) == 10


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.permutations(range(12)))
def test_a_members_batch_depends_on_its_seed_and_the_step_alone(seeds, order):
    sequential, jumping = batches(seeds), batches(seeds)
    expected = [sequential[step] for step in range(12)]
    for step in order:
        for tensor, wanted in zip(jumping[step], expected[step], strict=True):
            assert torch.equal(tensor, wanted)
        for row, seed in zip(jumping[step][0], seeds, strict=True):
            assert torch.equal(row, batches([seed])[step][0][0])


META = torch.device("meta")  # a device that every machine has


def test_a_device_gets_the_data_once_if_they_fit(monkeypatch):
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    sent = Batches(images, LABELS, 4, [1, 2, 3], "crop_flip").on(META)
    assert (sent.inputs.device, sent.labels.device) == (META, META)
    inputs, labels = sent[1]
    assert (inputs.device, inputs.shape, labels.shape) == (META, (3, 4, 1, 8, 8), (3, 4))
    assert sent.on(META) is sent
    monkeypatch.setattr("ensemble_transfer.training.batches.free_memory", lambda _: 5000)
    for augment in ("none", "trivial"):
        sent = Batches(images, LABELS, 4, [1], augment).on(META)
        assert (sent.labels.device.type, sent.inputs.device.type) == ("cpu", "cpu")
        inputs, labels = sent[1]
        assert (inputs.device, inputs.shape, inputs.dtype) == (META, (1, 4, 1, 8, 8), torch.uint8)
        assert (labels.device, labels.shape, labels.dtype) == (META, (1, 4), torch.int64)


@pytest.mark.parametrize("what", ["data", "batches"])
@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop_flip"])
def test_batches_of_a_device_are_those_of_the_cpu_bit_for_bit(augment, what):
    """Draws come from the CPU whatever the device, and moving images is no arithmetic: here the device is the CPU."""
    images = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Batches(images, LABELS, 4, [1, 2, 3], augment)
    sent = data.sending(what, torch.device("cpu"))
    for step in range(7):
        for mine, other in zip(data[step], sent[step], strict=True):
            assert (other.shape, other.dtype) == (mine.shape, mine.dtype)
            assert torch.equal(mine, other)


@given(st.integers(2, 40), st.integers(1, 50), st.integers(0, 30), st.integers(0, 2**62))
def test_what_steps_draw_is_what_their_batches_hold(examples, batch_size, steps, seed):
    data = Batches(torch.arange(examples), torch.arange(examples), batch_size, [seed])
    seen = {int(example) for step in range(steps) for example in data[step][0][0]}
    assert drawn(seed, examples, batch_size, steps).tolist() == sorted(seen)


@pytest.mark.parametrize("sends", ["", "data", "batches"])
@pytest.mark.parametrize("steps", [2, 11])
def test_features_come_in_the_order_of_their_images(steps, sends):
    seeds, rows = [3, 4], torch.zeros(2, 10, dtype=torch.int64)
    examples = [drawn(seed, 10, 3, steps) for seed in seeds]
    features = torch.cat([own[:, None] + torch.tensor([0.0, 0.5]) for own in examples])
    for own, row, start in zip(examples, rows, (0, len(examples[0])), strict=True):
        row[own] = torch.arange(start, start + len(own))
    data = Batches(pad(features, (0, 1), value=1.0), LABELS, 3, seeds, rows=rows)
    data = data.sending(sends, torch.device("cpu")) if sends else data
    plain = batches(seeds)
    for step in [*range(steps), 0]:
        (inputs, found), (chosen, wanted) = data[step], plain[step]
        assert torch.equal(inputs, torch.stack([chosen, chosen + 0.5, torch.ones(2, 3)], -1))
        assert torch.equal(found, wanted)


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
