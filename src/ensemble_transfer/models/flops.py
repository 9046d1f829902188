"""Floating-point operations of one example, by torch's flop counter with one rule mended."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ensemble_transfer.errors import SettingError, one_line
from ensemble_transfer.models.architecture import Architecture, Classifier


def counting() -> FlopCounterMode:
    """Return torch's flop counter, with a rule of ours for the gradients of a convolution.

    That of torch 2.13 ignores groups in the gradient of the weights: it counts that of a depthwise layer once for every
    channel (mended upstream by pytorch's pull request 183405).
    """
    rules: dict[Any, Callable[..., Any]] = {torch.ops.aten.convolution_backward: _convolution_backward}
    return FlopCounterMode(display=False, custom_mapping=rules)


def encode_flops(architecture: Architecture) -> int:
    """Return the operations of encoding one example: a forward pass without the head.

    Raises:
        SettingError: If the encoder cannot take images of the architecture's size.
    """
    return _measure(architecture)[0]


def step_flops(architecture: Architecture) -> int:
    """Return the operations of one example in a training step of the classifier, forward and backward."""
    return _measure(architecture)[1]


def head_flops(features: int, classes: int) -> int:
    """Return the operations of one example in a training step of a head on given features.

    The forward pass and the gradient of the weights take a multiply-add a weight each; the features need none.
    """
    return 4 * features * classes


@lru_cache(maxsize=16)
def _measure(architecture: Architecture) -> tuple[int, int]:
    with torch.device("meta"):
        classifier = Classifier(architecture).eval()
        images = torch.zeros(1, architecture.channels, architecture.image_size, architecture.image_size)
        try:
            with counting() as encoding, torch.no_grad():
                classifier.encode(images)
        except (AttributeError, IndexError, KeyError, TypeError) as error:  # a layer that the options left out
            rule = f"describe no whole network of {architecture.backbone}: {one_line(error)}"
            raise SettingError("options", dict(architecture.options), rule) from error
        except (RuntimeError, AssertionError, ValueError) as error:
            size = f"{architecture.channels}x{architecture.image_size}x{architecture.image_size}"
            rule = f"cannot encode images of {size}: {one_line(error)}"
            raise SettingError("name", architecture.backbone, rule) from error
        with counting() as training:
            classifier(images).sum().backward()
    return encoding.get_total_flops(), training.get_total_flops()


def _convolution_backward(
    grad_out: Sequence[int], images: Sequence[int], weight: Sequence[int], *rest: object, **_: object
) -> int:
    """Return the operations of the gradients of a convolution: each that is wanted takes as many as the forward pass.

    In the forward pass each position of the output, or of the input where the convolution is transposed, meets each
    weight once: a multiply-add. A grouped convolution has fewer weights for as many channels.
    """
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted = rest
    assert isinstance(wanted, Sequence)
    positions = prod((images if transposed else grad_out)[2:])
    return 2 * int(images[0]) * positions * prod(weight) * sum(map(bool, wanted[:2]))
