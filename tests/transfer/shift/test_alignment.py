"""Channels that belong together, and the permutation that lines one network up with another."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.transfer.shift.alignment import (
    Axis,
    Group,
    channel_groups,
    match_activations,
    match_weights,
    permuted,
    permuted_head,
)
from ensemble_transfer.transfer.shift.alignment.permutations import identity
from ensemble_transfer.weights import add_scaled, below, copied, distance, floating, random_like, select, subtract

SMALL = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
SUPPORTED = {
    "resnet10t": SMALL,
    "resnet18": {"channels": [8, 8, 16, 16]},
    "resnetv2_50": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "stem_chs": 8},
    "seresnet18": {"channels": [8, 8, 16, 16]},
    "mobilenetv2_035": {},
    "test_efficientnet": {},
    "test_byobnet": {},
    "convnext_atto": {"dims": [4, 8, 8, 8], "depths": [1, 1, 1, 1]},
}
REFUSED = {
    "densenet121": ({"growth_rate": 4, "block_config": [1, 1, 1, 1]}, "cat in encoder.features.denseblock1"),
    "resnext50_32x4d": ({"layers": [1, 1, 1, 1]}, "a convolution in 32 groups in encoder.layer1.0.conv2"),
    "ecaresnet50t": ({"layers": [1, 1, 1, 1]}, "a convolution over channels in encoder.layer1.0.se.conv"),
    "resnet50_gn": ({"layers": [1, 1, 1, 1]}, "group_norm in encoder.bn1"),
    "resnetblur18": ({"channels": [8, 8, 8, 8]}, "encoder.conv1.weight are tied to an order that is fixed"),
    "test_vit": ({"patch_size": 2, "img_size": 32}, "in encoder"),
}


def architecture(name="resnet10t", options=SMALL, size=8, channels=1):
    return Backbone(name, options).architecture(size, channels, 5)


def lively(arch, seed=0):
    """A classifier whose normalisation and biases have values of their own, so that a misplaced one is seen."""
    classifier = arch.build().eval()
    classifier.load_state_dict(arch.initial(seed))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in classifier.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            low = -0.2 if name.endswith(("bias", "running_mean")) else 0.6
            tensor.copy_(low + 0.6 * torch.rand(tensor.shape, generator=generator))
    return classifier


def shuffled(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(group.size, generator=generator) for group in groups}


def encoder(classifier):
    return below(copied(classifier.state_dict()), "encoder")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learned(weights):
    return select(weights, lambda name: "running" not in name)


@pytest.fixture(scope="module")
def groups():
    return channel_groups(architecture())


@pytest.fixture(scope="module")
def trained(source_ensemble):
    return below(source_ensemble.members[0], "encoder")


@pytest.fixture(scope="module")
def images():
    """Digits of 28x28, on which no channel of the nets below is dead: dead ones pair up arbitrarily."""
    return Digits(train=200, validation=40, test=60).load(28, 1).train.images


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_permuted_network_computes_the_same_function_in_both_modes(name):
    arch = architecture(name, SUPPORTED[name], 32, 3)
    groups = channel_groups(arch)
    permutations = shuffled(groups)
    (features,) = (group for group in groups if group.features)
    one, other = lively(arch).double(), arch.build().double()
    before = encoder(one)
    moved = permuted(before, groups, permutations)
    assert not equal(before, moved)
    other.encoder.load_state_dict(moved)
    other.head.load_state_dict(permuted_head(one.head.state_dict(), permutations))
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for train in (False, True):
        one.train(train)
        other.train(train)
        with torch.no_grad():
            torch.testing.assert_close(other.encode(images), one.encode(images)[:, permutations[features]])
            torch.testing.assert_close(other(images), one(images))
    for tensor, expected in permuted(encoder(one), groups, permutations).items():
        torch.testing.assert_close(encoder(other)[tensor], expected, msg=tensor)  # running statistics went along


def test_the_groups_of_a_small_resnet_by_hand():
    """The stem's three layers, then in every stage a block's hidden channels and the stream that its addition ties."""
    groups = channel_groups(architecture(options=SMALL | {"channels": [4, 6, 10, 12]}))
    assert [group.size for group in groups] == [3, 4, 8, 4, 4, 6, 6, 10, 10, 12, 12]
    assert [group.features for group in groups] == [False] * 10 + [True]
    norm = ("weight", "bias", "running_mean", "running_var")
    stream = {("layer2.0.conv2.weight", 0), ("layer2.0.downsample.1.weight", 0)}
    stream |= {(f"layer2.0.{name}.{tensor}", 0) for name in ("bn2", "downsample.2") for tensor in norm}
    stream |= {("layer3.0.conv1.weight", 1), ("layer3.0.downsample.1.weight", 1)}
    assert {(name, axis) for name, axis, _ in groups[6].axes} == stream
    assert {name for name, _, learned in groups[6].axes if not learned} == {n for n, _ in stream if "running" in n}


def test_an_identity_branch_ties_stages_together(groups):
    """Stages of equal width that do not stride have no downsampling: one stream runs through all."""
    (features,) = (group for group in groups if group.features)
    names = {(name, axis) for name, axis, _ in features.axes}
    assert {(f"layer{stage}.0.conv2.weight", 0) for stage in (2, 3, 4)} < names
    assert {(f"layer{stage}.0.conv1.weight", 1) for stage in (3, 4)} < names


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_permuted_is_refused_by_name(name):
    options, reason = REFUSED[name]
    with pytest.raises(SettingError, match="cannot have its channels permuted") as caught:
        channel_groups(architecture(name, options, 32, 3))
    assert str(caught.value).startswith(f"align={name!r}: ")
    assert reason in str(caught.value)


def test_an_encoder_that_cannot_take_the_images_is_refused():
    with pytest.raises(SettingError, match=r"align='convnext_atto': cannot be traced: .*Kernel size"):
        channel_groups(architecture("convnext_atto", SUPPORTED["convnext_atto"]))


@pytest.mark.parametrize("seed", [0, 1])
def test_weight_matching_recovers_a_permuted_copy(groups, trained, seed):
    donor = permuted(trained, groups, shuffled(groups, seed))
    found = match_weights(groups, donor, trained, seed)
    assert equal(permuted(donor, groups, found), trained)


@pytest.mark.parametrize("seed", range(4))
def test_weight_matching_recovers_channels_that_one_tensor_has_on_two_axes(seed):
    """As of a convolution beside an identity branch, which ties its input to its output: RepVGG."""
    stem, beside = Axis("stem.weight", 0, True), [Axis("conv.weight", axis, True) for axis in (0, 1)]
    groups = (Group(8, (stem, *beside), features=True),)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"stem.weight": (8, 1, 3, 3), "conv.weight": (8, 8, 3, 3)}
    recipient = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    donor = permuted(recipient, groups, shuffled(groups, seed))
    assert equal(permuted(donor, groups, match_weights(groups, donor, recipient)), recipient)


def test_activation_matching_recovers_a_permuted_copy(groups, images):
    arch = architecture(size=28)
    recipient = below(arch.initial(0), "encoder")
    donor = permuted(recipient, groups, shuffled(groups))
    found = match_activations(arch, groups, donor, recipient, images)
    assert equal(permuted(donor, groups, found), recipient)


def test_activation_matching_takes_the_assignment_of_the_greatest_correlation(groups, images):
    """Of what the head alone reads, against numpy and scipy: more images than go forward together."""
    arch = architecture(size=28, options=SMALL | {"channels": [4, 6, 10, 12]})
    groups = channel_groups(arch)
    classifiers = [lively(arch, seed) for seed in (0, 1)]
    found = match_activations(arch, groups, *map(encoder, classifiers), images)
    with torch.no_grad():
        ours, theirs = (classifier.encode(images).double().numpy() for classifier in classifiers)
    with np.errstate(invalid="ignore"):  # dead features
        correlation = np.nan_to_num(np.corrcoef(theirs.T, ours.T)[: groups[-1].size, groups[-1].size :])
    best = correlation[linear_sum_assignment(-correlation)].sum()
    assert best > 1
    assert correlation[range(groups[-1].size), found[groups[-1]]].sum() == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_weight_matching_brings_independent_networks_closer(groups, seed):
    arch = architecture()
    donor, recipient = (learned(encoder(lively(arch, s))) for s in (seed, seed + 10))
    statistics = {k: v for k, v in encoder(arch.build()).items() if "running" in k}
    donor, recipient = donor | statistics, recipient | statistics
    found = match_weights(groups, donor, recipient, seed)
    matched = permuted(donor, groups, found)
    assert distance(learned(matched), learned(recipient)) < 0.99 * distance(learned(donor), learned(recipient))
    assert equal(found, match_weights(groups, donor, recipient, seed))


def test_no_swap_of_two_channels_improves_a_weight_match(groups):
    arch = architecture()
    donor, recipient = (below(arch.initial(seed), "encoder") for seed in (0, 1))
    found = match_weights(groups, donor, recipient)
    best = distance(permuted(donor, groups, found), recipient)
    for group in groups:
        for first in range(group.size - 1):
            order = found[group].clone()
            order[[first, first + 1]] = order[[first + 1, first]]
            swapped = permuted(donor, groups, found | {group: order})
            assert distance(swapped, recipient) >= best - 1e-6


def test_matching_members_of_one_ancestor_changes_no_more_than_it_gains(groups, source_ensemble):
    donor, recipient = (below(member, "encoder") for member in source_ensemble.members[:2])
    matched = permuted(donor, groups, match_weights(groups, donor, recipient))
    assert distance(learned(matched), learned(recipient)) <= distance(learned(donor), learned(recipient))


def test_a_permuted_shift_is_the_shift_of_permuted_networks(groups, trained):
    after = add_scaled(trained, random_like(floating(trained), torch.Generator().manual_seed(0)))
    permutations = shuffled(groups)
    shift = subtract(after, trained)
    moved = permuted(shift, groups, permutations)
    assert equal(moved, subtract(permuted(after, groups, permutations), permuted(trained, groups, permutations)))
    assert not equal(moved, shift)
    assert equal(permuted(shift, groups, identity(groups)), shift)


def test_inputs_stay_as_they_are_and_share_nothing_with_results(groups, source_task, trained):
    arch, permutations = architecture(), shuffled(groups)
    donor, before = permuted(trained, groups, permutations), copied(trained)
    moved = permuted(trained, groups, identity(groups))
    for tensor in moved.values():
        tensor.zero_()
    head = arch.fresh_head(0)
    head_before = copied(head)
    for tensor in permuted_head(head, permutations).values():
        tensor.zero_()
    donor_before = copied(donor)
    match_weights(groups, donor, trained)
    match_activations(arch, groups, donor, trained, source_task.train.images[:4])
    assert equal(trained, before)
    assert equal(donor, donor_before)
    assert equal(head, head_before)


def test_matching_leaves_the_global_generator_alone(groups, trained, source_task):
    state = torch.get_rng_state()
    match_weights(groups, trained, trained)
    match_activations(architecture(), groups, trained, trained, source_task.train.images[:4])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(3)}, "tensor 'extra' is unknown"),
        ({"bn1.weight": None}, "tensor 'bn1.weight' is missing"),
        ({"bn1.weight": torch.zeros(3)}, r"tensor 'bn1.weight' has shape \(3,\); axis 0 must have 8 channels"),
        ({"layer1.0.conv1.weight": torch.zeros(4)}, r"tensor 'layer1.0.conv1.weight' has shape \(4,\)"),
    ],
)
def test_foreign_weights_raise_naming_the_tensor(groups, trained, change, message):
    foreign = {name: tensor for name, tensor in (dict(trained) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        permuted(foreign, groups, identity(groups))
    with pytest.raises(ValueError, match=message):
        match_weights(groups, trained, foreign)
    with pytest.raises(ValueError, match=message):
        match_activations(architecture(), groups, foreign, trained, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_what_is_no_permutation_raises(groups, trained):
    some = dict(identity(groups))
    some[groups[0]] = torch.zeros(groups[0].size, dtype=torch.long)
    with pytest.raises(ValueError, match="need a permutation"):
        permuted(trained, groups, some)
    with pytest.raises(ValueError, match="need a permutation"):
        permuted(trained, groups, {})
    with pytest.raises(ValueError, match="no example"):
        match_activations(architecture(), groups, trained, trained, torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="tensor 'weight' has shape"):
        permuted_head({"weight": torch.zeros(5, 3), "bias": torch.zeros(5)}, identity(groups))
