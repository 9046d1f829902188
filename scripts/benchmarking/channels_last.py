"""Images and convolutions with channels last against channels first: a fit, and prediction; the default net and others.

Aim: never slower on a CPU, where channels last is the default. On a GPU, these numbers decide whether it becomes that.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarking.measure import Options, Result, digits, fitter, interleaved, medians, network, ratios, starts, under
from ensemble_transfer.models.backbone import Architecture, Backbone
from ensemble_transfer.models.memory_format import channels_last
from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.training.recipe import Recipe

REPEATS = 5
BATCH = 256


def run(options: Options) -> Result:
    """Compare the layouts for the default net on small and larger digits, and for two known nets on 64 pixels."""
    cases = {"default net, 8 pixels": network(8), "default net, 28 pixels": network(28)}
    if not options.quick:
        for name in ("resnet18", "tf_efficientnet_lite0"):
            cases[f"{name}, 64 pixels"] = Backbone(name).architecture(64, 3, 10)
    found: Result = {}
    for name, architecture in cases.items():
        fit, prediction = fits(options, architecture), predictions(options, architecture)
        found |= under(f"fit, {name}", fit) | under(f"prediction, {name}", prediction)
    return found


def fits(options: Options, architecture: Architecture) -> Result:
    """Time fits of two members, as long for each layout."""
    data = MnistSample(train=500).load(architecture.image_size, architecture.channels).train
    small = architecture.channels == 1
    recipe, begin = Recipe(2 if options.quick else 100 if small else 8), starts(architecture, 2)
    calls = {}
    for name, last in (("first", False), ("last", True)):
        ours = fitter(options, executor="loop", channels_last=last)
        ours.fit(architecture, begin, data, Recipe(2), "warm")
        calls[name] = partial(ours.fit, architecture, begin, data, recipe, "benchmark")
    times = interleaved(calls, 1 if options.quick else REPEATS)
    return ratios(times, "last", "first") | medians(times)


def predictions(options: Options, architecture: Architecture) -> Result:
    """Time the predictions of one member for as many images."""
    data = digits(BATCH * (4 if architecture.channels == 1 else 1), architecture.image_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = data.images.expand(-1, architecture.channels, -1, -1).to(device)
    nets = {"first": architecture.build().eval(), "last": channels_last(architecture.build()).eval()}
    calls = {name: partial(predicted, net.to(device), images) for name, net in nets.items()}
    interleaved(calls, 1)
    times = interleaved(calls, 1 if options.quick else 2 * REPEATS)
    return ratios(times, "last", "first") | medians(times)


@torch.inference_mode()
def predicted(net: nn.Module, images: Tensor) -> None:
    """Predict in batches."""
    for batch in images.split(BATCH):
        net(batch)
