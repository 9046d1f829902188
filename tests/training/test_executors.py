"""The stacked network takes the steps of the loop."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ensemble_transfer import Architecture, Fitter, Recipe, SettingError, TrainerSettings
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.executors import (
    LAUNCH_BOUND,
    Loop,
    Vectorised,
    chosen_executor,
    grouped,
)
from ensemble_transfer.training.lockstep import Lockstep
from ensemble_transfer.training.lockstep import train as train_doubles

NET = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
NETS = {
    "batch norm": NET,
    "group norm": NET | {"norm_layer": "groupnorm1"},
    "dropout": NET | {"drop_rate": 0.4},
    "drop path": NET | {"drop_path_rate": 0.5},
}
SGD = {"optimizer": "sgd", "lr": 0.05}
RECIPES = {
    "adamw": Recipe(5, lr=1e-2),
    "sgd": Recipe(5, **SGD),
    "clipped": Recipe(5, **SGD, clip=0.3),
    "smoothed": Recipe(5, **SGD, label_smoothing=0.2),
}


def architecture(options):
    return Architecture("resnet10t", options, 8, 1, 5, (0.5,), (0.5,))


def trained(executor, options, recipe, data, **settings):
    """Return the weights of three members, computed in doubles: what is left of a difference is no rounding."""
    net = architecture(options)
    modules = [net.classifier(net.initial(seed)).double() for seed in range(3)]
    batches = Batches(data.images, data.labels, 16, [4, 5, 6])
    chosen = TrainerSettings("cpu", executor=executor, threads=1, progress=False, **settings)
    lockstep = Lockstep(modules, batches, recipe, chosen)
    train_doubles(lockstep)
    return lockstep.weights()


def assert_close(one, other, tolerance=1e-8):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[k].double(), b[k].double(), rtol=tolerance, atol=tolerance) for k in a)


@pytest.mark.parametrize(
    ("net", "recipe"),
    [("batch norm", "smoothed"), ("group norm", "clipped"), ("dropout", "clipped"), ("drop path", "adamw")],
)
def test_vectorised_members_are_those_of_the_loop(source_task, net, recipe):
    runs = [trained(e, NETS[net], RECIPES[recipe], source_task.train) for e in ("loop", "vectorised")]
    assert_close(*runs)
    assert not torch.equal(runs[1][0]["head.weight"], runs[1][1]["head.weight"])


class Dropping(nn.Module):
    """A linear net with every kind of dropout, and a call that drops nothing."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.first, self.maps, self.none = nn.Dropout(0.3), nn.Dropout2d(0.5), nn.Dropout(0.0)

    def forward(self, x):
        x = self.none(self.first(x.unflatten(1, (3, 2, 2))))
        x = nn.functional.dropout(self.maps(x), 0.2, self.training, inplace=True)
        return self.head(x.flatten(1) + torch.nn.functional.dropout(x.flatten(1), training=False))


@pytest.mark.parametrize("seeds", [[1, 2], [7, 7]])
def test_masks_are_drawn_from_each_members_own_stream(seeds):
    members = [Dropping(), Dropping()]
    inputs, labels = torch.randn(2, 8, 12), torch.arange(8).remainder(3).expand(2, 8)
    losses = [group.backward(inputs, labels, seeds, 0.0) for group in (Loop(deepcopy(members)), Vectorised(members))]
    assert torch.allclose(*losses, rtol=1e-6)


class Scaled(nn.Module):
    """A net with a parameter that has no dimension, as ConvNeXt's or EVA's scales may be."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.tensor(3.0)), nn.Linear(4, 2)

    def forward(self, x):
        return self.scale * self.head(x)


def test_a_scalar_parameter_is_clipped_as_in_the_loop():
    members = [Scaled(), Scaled()]
    inputs, labels = 9 * torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.int64)
    groups = Loop(deepcopy(members)), Vectorised(members)
    for group in groups:
        group.backward(inputs, labels, [0, 1], 0.0)
        group.clip(0.01)
    looped = torch.stack([member.scale.grad for member in groups[0].members])
    stacked = dict(groups[1].trained())["scale"].grad
    assert stacked.shape == (2,)
    torch.testing.assert_close(stacked, looped)
    assert bool((stacked.abs() < 0.01).all())


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(x.shape)


@pytest.mark.parametrize("module", [Noisy(), nn.Sequential(nn.AlphaDropout(0.5)), nn.RReLU()])
def test_what_else_is_random_is_refused(module):
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        Vectorised([module]).losses(torch.randn(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), [0], 0.0)


def test_channels_last_changes_the_layout_and_not_the_result(source_task):
    plain, other = (trained("loop", NET, RECIPES["sgd"], source_task.train, channels_last=c) for c in (False, True))
    assert_close(plain, other)
    assert all(tensor.is_contiguous() for member in other for tensor in member.values())


@pytest.mark.parametrize(
    ("device", "has_onednn", "asked", "wanted"),
    [
        ("cpu", True, None, True),
        ("cpu", False, None, False),
        ("cuda", True, None, False),
        ("cpu", True, False, False),
        ("cuda", False, True, True),
    ],
)
def test_channels_last_is_the_layout_where_it_pays(monkeypatch, device, has_onednn, asked, wanted):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: has_onednn)
    monkeypatch.setattr(TrainerSettings, "device", torch.device(device))
    loop = grouped([nn.Conv2d(3, 4, 3)], TrainerSettings(executor="loop", channels_last=asked))
    assert loop.members[0].weight.is_contiguous(memory_format=torch.channels_last) == wanted


SMALL, LARGE = int(LAUNCH_BOUND / 100), int(LAUNCH_BOUND * 2)


@pytest.mark.parametrize(
    ("device", "members", "flops", "channels_last", "chosen"),
    [
        ("cpu", 100, SMALL, False, "loop"),
        ("cuda", 2, SMALL, False, "vectorised"),
        ("cuda", 1, SMALL, False, "loop"),
        ("cuda", 8, LARGE, False, "loop"),
        ("cuda", 8, SMALL, True, "loop"),
    ],
)
def test_auto_is_a_rule(monkeypatch, device, members, flops, channels_last, chosen):
    monkeypatch.setattr(TrainerSettings, "device", torch.device(device))
    for asked, expected in (("auto", chosen), ("loop", "loop"), ("vectorised", "vectorised")):
        settings = TrainerSettings(executor=asked, channels_last=channels_last)
        assert chosen_executor(settings, members, flops) == expected


def test_auto_trains_in_the_loop_what_cannot_be_vectorised(train, settings, monkeypatch, caplog):
    net = Architecture("test_vit", {"patch_size": 4, "img_size": 8, "attn_drop_rate": 0.1}, 8, 1, 5, (0.5,), (0.5,))
    monkeypatch.setattr("ensemble_transfer.training.fit.chosen_executor", lambda *_: "vectorised")
    caplog.set_level("INFO")
    train(range(2), Recipe(1), net=net)
    assert any(message.startswith("executor=auto: loop (executor='vectorised': cannot") for message in caplog.messages)
    with pytest.raises(SettingError, match="cannot train this net"):
        Fitter(replace(settings, executor="vectorised")).check(net)
