"""Image sizes of members: which are allowed, and weights that depend on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.architecture import Architecture, encoder_of
from ensemble_transfer.models.flops import step_flops
from ensemble_transfer.tasks.limits import MIN_SIZE


def sizes_of(image_size: Any, stored: int, members: int) -> tuple[int, ...]:  # noqa: ANN401  # what a setting may be
    """Return the image size of each of so many members.

    Args:
        image_size: One size for all, several that the members have in turns, or None for the stored one.
        stored: Height and width that images are stored at, in pixels.
        members: Number of members.
    """
    given = listed(image_size) or [stored]
    return tuple(given[member % len(given)] for member in range(members))


def require_sizes(image_size: Any, architecture: Architecture, several: bool = True) -> None:  # noqa: ANN401
    """Raise a SettingError unless a strategy's ``image_size`` is None, one size that suits the members, or several."""
    sizes = listed(image_size)
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    rule = "must be a whole number of pixels, a list of such numbers, or null for dataset.image_size"
    require(whole and (bool(sizes) or image_size is None), "image_size", image_size, rule)
    require(several or len(sizes) < 2, "image_size", image_size, "must be one size, or null: all have it in common")
    for size in sizes:
        require_size(architecture, size)


def listed(image_size: Any) -> list[Any]:  # noqa: ANN401
    """Return the sizes that a strategy's ``image_size`` names; none for None."""
    if image_size is None:
        return []
    return list(image_size) if isinstance(image_size, Sequence) and not isinstance(image_size, str) else [image_size]


def require_size(architecture: Architecture, size: int) -> None:
    """Raise a SettingError unless members of an architecture can be of this image size.

    Args:
        architecture: Of the images as they are stored.
        size: Height and width that a member sees, in pixels.
    """
    most = architecture.image_size
    rule = f"must be {MIN_SIZE} to dataset.image_size={most} pixels, which images are stored at: none are scaled up"
    require(MIN_SIZE <= size <= most, "image_size", size, rule)
    try:
        own = architecture.at(size)
        own.require_all_pixels()
        step_flops(own)
    except SettingError as error:
        raise SettingError("image_size", size, f"does not suit {architecture.backbone}: {error}") from error
    can = own.options == architecture.options or _interpolates(architecture, own)
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
        network: Any = encoder_of(architecture)
    network.load_state_dict(dict(encoder), strict=True)
    network.set_input_size(img_size=(size, size))
    resized: dict[str, Tensor] = network.state_dict()
    return resized


def _interpolates(architecture: Architecture, own: Architecture) -> bool:
    """Return whether timm makes weights of the one architecture into those of the other, of another image size."""
    with torch.device("meta"):
        network: Any = encoder_of(architecture)
        wanted = {name: tensor.shape for name, tensor in encoder_of(own).state_dict().items()}
        if not hasattr(network, "set_input_size"):
            return False
        network.set_input_size(img_size=(own.image_size, own.image_size))
    return {name: tensor.shape for name, tensor in network.state_dict().items()} == wanted
