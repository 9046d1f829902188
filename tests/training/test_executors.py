"""The stacked network takes the steps of the loop."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fits import assert_same, in_doubles
from refusals import refusal
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ensemble_transfer import Architecture, Fitter, Recipe, TrainerSettings
from ensemble_transfer.training.executors import LAUNCH_BOUND, Loop, Vectorised, chosen_executor, grouped
from ensemble_transfer.training.fit import Start

NET = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
NETS = {
    "batch norm": NET,
    "group norm": NET | {"norm_layer": "groupnorm1"},
}
SGD = {"optimizer": "sgd", "lr": 0.05}
RECIPES = {
    "adamw": Recipe(5, 16, lr=1e-2),
    "sgd": Recipe(5, 16, **SGD),
    "clipped": Recipe(5, 16, **SGD, clip=0.3),
    "smoothed": Recipe(5, 16, **SGD, label_smoothing=0.2, class_weights=[0.1, 1, 2, 3, 4]),
}


def architecture(options):
    return Architecture("resnet10t", options, 8, 1, 5, (0.5,), (0.5,))


def trained(executor, options, recipe, data, **settings):
    """Return the weights of three members."""
    chosen = TrainerSettings("cpu", executor=executor, threads=1, progress=False, **settings)
    net = architecture(options)
    return in_doubles(net, [Start(m, net.initial(m), 4 + m) for m in range(3)], data, recipe, chosen)


def assert_close(one, other, tolerance=1e-8):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[k].double(), b[k].double(), rtol=tolerance, atol=tolerance) for k in a)


@pytest.mark.parametrize(
    ("net", "recipe"), [("batch norm", "smoothed"), ("group norm", "clipped"), ("batch norm", "adamw")]
)
def test_vectorised_members_are_those_of_the_loop(source_task, net, recipe):
    runs = [trained(e, NETS[net], RECIPES[recipe], source_task.train) for e in ("loop", "vectorised")]
    assert_close(*runs)
    assert not torch.equal(runs[1][0]["head.weight"], runs[1][1]["head.weight"])


class Clones(TorchDispatchMode):
    """Counts the tensors that torch copies."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten.clone.default
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Mish])
def test_no_activation_copies_its_input(activation):
    nets = [nn.Sequential(nn.Linear(4, 8), activation(inplace=True), nn.Linear(8, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    plain, loop = nets[0], Loop([nets[1]])
    inputs, labels = torch.randn(1, 5, 4), torch.tensor([[0, 1, 0, 1, 1]])
    nn.functional.cross_entropy(plain(inputs[0]), labels[0]).backward()
    with Clones() as clones:
        loop.backward(inputs, labels, [0])
    assert clones.count == 0
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), nets[1].parameters(), strict=True))


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
        group.backward(inputs, labels, [0, 1])
        group.clip(0.01)
    looped = torch.stack([member.scale.grad for member in groups[0].members])
    stacked = dict(groups[1].trained())["scale"].grad
    assert stacked.shape == (2,)
    torch.testing.assert_close(stacked, looped)
    assert bool((stacked.abs() < 0.01).all())


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


def test_what_a_member_drops_depends_on_its_own_seed_alone():
    def losses(members, seeds):
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 2)) for _ in range(2)][:members]
        batch = torch.ones(members, 8, 32), torch.zeros(members, 8, dtype=torch.long)
        return Loop(nets).backward(*batch, seeds)[0].tolist()

    assert losses(2, (3, 4))[0] == losses(1, (3,))[0]
    assert losses(2, (3, 4))[1] == losses(2, (5, 4))[1] != losses(2, (3, 5))[1]


@pytest.mark.parametrize("drops", [{"drop_rate": 0.4}, {"drop_path_rate": 0.5}], ids=str)
def test_a_net_with_random_layers_is_trained_in_the_loop(train, settings, monkeypatch, drops):
    net = architecture(NET | drops)
    error = refusal(Fitter(replace(settings, executor="vectorised")).check, net)
    assert (error.setting, error.value) == ("executor", "vectorised")
    assert "random" in error.rule
    assert error.rule.endswith("use executor=loop")
    assert "\n" not in str(error)
    looped = train(range(2), Recipe(1), net=net, executor="loop")
    monkeypatch.setattr("ensemble_transfer.training.fit.chosen_executor", lambda *_: "vectorised")
    assert_same(train(range(2), Recipe(1), net=net), looped)
