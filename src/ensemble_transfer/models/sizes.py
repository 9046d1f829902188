"""Image sizes of members: which are allowed, and weights that depend on them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.architecture import Architecture, encoder_of
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.tasks.images import SMALLEST


def require_size(architecture: Architecture, size: int) -> None:
    """Raise a SettingError unless members of an architecture can be of this image size.

    Args:
        architecture: Of the images as they are stored.
        size: Height and width that a member sees, in pixels.
    """
    most = architecture.image_size
    rule = f"must be {SMALLEST} to dataset.image_size={most} pixels, which images are stored at: none are scaled up"
    require(SMALLEST <= size <= most, "image_size", size, rule)
    try:
        own = architecture.at(size)
        own.require_all_pixels()
        step_flops(own)
    except SettingError as error:
        raise SettingError("image_size", size, f"does not suit {architecture.backbone}: {error}") from error
    can = own.options == architecture.options or hasattr(_sketch(architecture), "set_input_size")
    rule = f"must be dataset.image_size={most}: timm has no weights of {architecture.backbone} for another size"
    require(can, "image_size", size, rule)


def encoder_at(encoder: Mapping[str, Tensor], architecture: Architecture, size: int) -> Mapping[str, Tensor]:
    """Return an encoder's weights for images of another size; timm interpolates those that belong to positions.

    Args:
        encoder: Its weights.
        architecture: What they are of.
        size: Height and width of the images, in pixels.
    """
    if architecture.at(size).options == architecture.options:
        return encoder
    with torch.random.fork_rng(devices=[]):
        network = encoder_of(architecture)
    network.load_state_dict(dict(encoder), strict=True)
    network.set_input_size(img_size=(size, size))
    return network.state_dict()


def _sketch(architecture: Architecture) -> torch.nn.Module:
    with torch.device("meta"):
        return encoder_of(architecture)
