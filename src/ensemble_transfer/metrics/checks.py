"""Checks of predictions and labels; each error names the problem and the rule in one sentence."""

import torch
from torch import Tensor

from ensemble_transfer.metrics.predictive import blocks

SUM_TOLERANCE = 1e-3
"""Largest distance of the sum of an example's probabilities from 1; float16 predictions stay within it."""


def check_probabilities(
    probabilities: Tensor,
    name: str = "probabilities",
    *,
    members: int | None = None,
    classes: int | None = None,
) -> None:
    """Raise unless the tensor holds the class probabilities of an ensemble.

    Args:
        probabilities: The tensor: (M, N, C).
        name: Name of the tensor in the message.
        members: Required number of members; None for any.
        classes: Required number of classes; None for any.

    Raises:
        ValueError: The shape is wrong, a dimension is empty, there is only one class, a value is negative or not
            finite, or an example's probabilities do not sum to 1 within ``SUM_TOLERANCE``.
    """
    _check_shape(probabilities, name, members, classes)
    parts = [probabilities[:, rows] for rows in blocks(probabilities)]
    infinite = next((part[~torch.isfinite(part)] for part in parts if not torch.isfinite(part).all()), None)
    if infinite is not None:
        worst = infinite[0].item()
        raise ValueError(f"{name} holds {worst}; must be finite numbers in 0..1")
    least = probabilities.min().item()
    if least < 0:
        raise ValueError(f"{name} holds {least:.6g}; must lie in 0..1 (of logits, pass the softmax)")
    sums = torch.cat([part.sum(dim=-1, dtype=torch.float64) for part in parts], dim=1)
    deviation = (sums - 1).abs()
    if deviation.max() > SUM_TOLERANCE:
        member, example = divmod(int(deviation.argmax()), sums.shape[1])
        raise ValueError(
            f"{name} sums to {sums[member, example].item():.6g} over the classes of member {member}, example "
            f"{example}; must be 1 within {SUM_TOLERANCE}"
        )


def check_labels(labels: Tensor, examples: int, classes: int, name: str = "labels") -> None:
    """Raise unless the tensor holds one class index per example.

    Args:
        labels: The tensor: (N,).
        examples: Number of predicted examples, N.
        classes: Number of classes, C; labels are in 0..C-1.
        name: Name of the tensor in the message.

    Raises:
        ValueError: The shape or length is wrong, or a value is not an integer in 0..C-1.
    """
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(labels.shape)}; must be (examples,), one class index each")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {_dtype(labels)}; must be integers, the class indices 0..{classes - 1}")
    if len(labels) != examples:
        raise ValueError(f"{name} has {len(labels)} entries; must be {examples}, one for each predicted example")
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"{name} holds {outside[0].item()}; must lie in 0..{classes - 1}, there are {classes} classes")


def _check_shape(probabilities: Tensor, name: str, members: int | None, classes: int | None) -> None:
    shape = tuple(probabilities.shape)
    if len(shape) != 3:
        hint = "; for a single member, pass probabilities[None]" if len(shape) == 2 else ""
        raise ValueError(f"{name} has shape {shape}; must be (members, examples, classes){hint}")
    if probabilities.is_complex():
        raise ValueError(f"{name} has dtype {_dtype(probabilities)}; must be real numbers in 0..1")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}; must hold at least one member, example and class")
    if shape[2] < 2:
        raise ValueError(f"{name} has shape {shape}; must have at least 2 classes")
    for axis, wanted, what in ((0, members, "members"), (2, classes, "classes")):
        if wanted is not None and shape[axis] != wanted:
            raise ValueError(f"{name} has {shape[axis]} {what}; must be {wanted}, as in probabilities")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
