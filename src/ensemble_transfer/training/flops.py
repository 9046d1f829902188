"""Floating-point operations of one example, by torch's flop counter."""

import json
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Architecture, Classifier


def encode_flops(architecture: Architecture) -> int:
    """Return the operations of encoding one example: a forward pass without the head.

    Raises:
        SettingError: If the encoder cannot take images of the architecture's size.
    """
    return _measure(json.dumps(architecture.plain()))[0]


def step_flops(architecture: Architecture) -> int:
    """Return the operations of one example in a training step of the classifier, forward and backward."""
    return _measure(json.dumps(architecture.plain()))[1]


def head_flops(features: int, classes: int) -> int:
    """Return the operations of one example in a training step of a head on given features.

    The forward pass and the gradient of the weights take a multiply-add a weight each; the features need none.
    """
    return 4 * features * classes


@lru_cache(maxsize=16)
def _measure(description: str) -> tuple[int, int]:
    architecture = Architecture.from_plain(json.loads(description))
    with torch.device("meta"):
        classifier = Classifier(architecture).eval()
        images = torch.zeros(1, architecture.channels, architecture.image_size, architecture.image_size)
        try:
            with FlopCounterMode(display=False) as encoding, torch.no_grad():
                classifier.encode(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            size = f"{architecture.channels}x{architecture.image_size}x{architecture.image_size}"
            rule = f"cannot encode images of {size}: {' '.join(str(error).split())[:200]}"
            raise SettingError("name", architecture.backbone, rule) from error
        with FlopCounterMode(display=False) as training:
            classifier(images).sum().backward()
    return encoding.get_total_flops(), training.get_total_flops()
