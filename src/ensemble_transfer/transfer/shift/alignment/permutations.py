"""Groups of channels that only a common permutation may reorder, and the permutation of weights along them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ensemble_transfer.weights import Weights


class Axis(NamedTuple):
    """One axis of one tensor of an encoder.

    Attributes:
        tensor: Name of the tensor.
        axis: Number of the axis.
        learned: Whether the tensor is a parameter; running statistics are not.
    """

    tensor: str
    axis: int
    learned: bool


@dataclass(frozen=True)
class Group:
    """Channels of several tensors that only a common permutation may reorder.

    Attributes:
        size: Number of channels.
        axes: Axes of tensors that hold these channels.
        features: Whether they are the encoder's features, the input of a head.
    """

    size: int
    axes: tuple[Axis, ...]
    features: bool


Permutations = Mapping[Group, Tensor]
"""For every group indices (channels,), int64, on the CPU: channel ``i`` of the result is channel ``p[i]`` before."""


def identity(groups: Sequence[Group]) -> dict[Group, Tensor]:
    """Return the permutations that change nothing."""
    return {group: torch.arange(group.size) for group in groups}


def permuted(weights: Weights, groups: Sequence[Group], permutations: Permutations) -> dict[str, Tensor]:
    """Return an encoder's weights, or a shift vector, with the channels of every group reordered.

    Raises:
        ValueError: If the weights are not those of the groups' encoder, or a permutation is missing or is not one.
    """
    check_weights(weights, groups)
    result = {name: tensor.clone() for name, tensor in weights.items()}
    for group in groups:
        order = _order(group, permutations)
        for axis in group.axes:
            tensor = result[axis.tensor]
            result[axis.tensor] = tensor.index_select(axis.axis, order.to(tensor.device))
    return result


def permuted_head(head: Weights, permutations: Permutations) -> dict[str, Tensor]:
    """Return a head, ``weight`` (classes, features) and ``bias``, that reads the permuted features.

    Raises:
        ValueError: If the head does not have as many features as the permutations.
    """
    result = {name: tensor.clone() for name, tensor in head.items()}
    for group in permutations:
        if group.features:
            if head["weight"].shape[1] != group.size:
                raise ValueError(f"tensor 'weight' has shape {tuple(head['weight'].shape)}; features: {group.size}")
            result["weight"] = head["weight"].index_select(1, _order(group, permutations).to(head["weight"].device))
    return result


def check_weights(weights: Weights, groups: Sequence[Group]) -> None:
    """Raise a ValueError that names the tensor unless these are weights, or a shift, of the groups' encoder.

    A tensor of one number, such as a counter, has no channels and needs no group.
    """
    known = {axis.tensor for group in groups for axis in group.axes}
    for name in sorted(known - weights.keys()):
        raise ValueError(f"tensor {name!r} is missing")
    for name in sorted(weights.keys() - known):
        if weights[name].numel() > 1:
            raise ValueError(f"tensor {name!r} is unknown: no group of channels has it")
    for group in groups:
        for name, axis, _ in group.axes:
            shape = tuple(weights[name].shape)
            if axis >= len(shape) or shape[axis] != group.size:
                raise ValueError(f"tensor {name!r} has shape {shape}; axis {axis} must have {group.size} channels")


def _order(group: Group, permutations: Permutations) -> Tensor:
    order = permutations.get(group)
    if order is None or not torch.equal(order.sort().values, torch.arange(group.size)):
        raise ValueError(f"tensor {group.axes[0].tensor!r}: its {group.size} channels need a permutation, not {order}")
    return order
