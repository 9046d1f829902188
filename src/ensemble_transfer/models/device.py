"""How networks compute on a device: the layout in memory, and how products are rounded.

On a CPU, oneDNN computes convolutions fastest with channels last: each pixel's channels side by side. Layers between
convolutions take their input as it comes, so nothing is reordered. It is the same arithmetic in another order: results
of a step differ in their last bits, and those of a few hundred steps in the labels of 5.4 to 6.9% of test images. So
the layout is part of a fit's key. ``scripts/benchmarks/benchmark.py executor`` measures what it saves.

With TF32 a GPU's tensor cores round float32 numbers to 10 bits after the point before they multiply. That is three
decimal digits, for several times the speed. Torch by itself does so in convolutions, and not in matrix products. A CPU
has no TF32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ensemble_transfer.models.copies import move

Network = TypeVar("Network", bound=nn.Module)
T = TypeVar("T")

IMAGES_SHARE = 0.1
"""Share of a GPU's free memory that images may take, in training and in a prediction; members take most of the rest."""


def channels_last_pays(device: torch.device | str) -> bool:
    """Return whether convolutions on a device get channels last: on a CPU with oneDNN; on a GPU it is not measured."""
    return torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def channels_last(network: Network) -> Network:
    """Give the weights of a network's convolutions the layout channels last, in place; images follow by themselves."""
    convert_conv2d_weight_memory_format(network, torch.channels_last)
    return network


def to_device(network: Network, device: torch.device | str) -> Network:
    """Move a network to a device, in place, in evaluation mode and in the layout that is fast there."""
    move(network, torch.device(device))
    network.eval()
    return channels_last(network) if channels_last_pays(device) else network


def images_at_once(device: torch.device | str, image_size: int) -> int:
    """Return how many images a forward pass without gradients takes.

    On a CPU few large ones: what a layer computes of them stays near its caches, and takes little memory. 256 images of
    224 pixels take 3 GB in EfficientNet-Lite0, and are no faster.
    """
    most = 2**18 // image_size**2 if torch.device(device).type == "cpu" else 256
    return max(32, min(256, most))


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Let tensors of the block be of float32, whatever torch's default is: weights are, and so are images."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and matrix products of the block, or forbid it in both.

    Torch has a setting for either. Later versions have one for each kind of operation besides, which decides. Where
    somebody has set these to something else, the older two cannot be read; they are what torch starts with then.
    """
    kinds, ours = _kinds(), "tf32" if allowed else "ieee"
    before = [kind.fp32_precision for kind in kinds]
    convolutions = _read(lambda: torch.backends.cudnn.allow_tf32, True)
    products = _read(torch.get_float32_matmul_precision, "highest")
    _set_older(allowed, "high" if allowed else "highest")
    for kind in kinds:
        if (kind.fp32_precision == "tf32") != allowed:
            kind.fp32_precision = ours
    try:
        yield
    finally:
        _set_older(convolutions, products)
        for kind, value in zip(kinds, before, strict=True):
            for one in ("none", value):  # it takes over what is set for all kinds, or has its own
                if kind.fp32_precision != value:
                    kind.fp32_precision = one


def _kinds() -> list[Any]:
    """Return torch's newer settings: of products on a GPU, convolutions, recurrent layers, and products on a CPU."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]


def _read(setting: Callable[[], T], otherwise: T) -> T:
    try:
        return setting()
    except RuntimeError:
        return otherwise


def _set_older(convolutions: bool, products: str) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
