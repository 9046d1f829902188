"""Predictions and labels of any origin, as tensors; each error names the problem and the rule in one sentence."""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ensemble_transfer.metrics.predictive import blocks

Values: TypeAlias = ArrayLike | Tensor

SUM_TOLERANCE = 1e-3
"""Largest distance of the sum of an example's probabilities from 1; float16 predictions stay within it."""


def as_predictions(
    probabilities: Values, labels: Values, prefix: str = "", *, members: int | None = None, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return probabilities (M, N, C) and labels (N,) int64; see :func:`as_probabilities`.

    Raises:
        ValueError: The arrays are no probabilities, or not one class index for each example. ``prefix`` stands before
            their names in messages.
    """
    given = as_probabilities(probabilities, f"{prefix}probabilities", members=members, classes=classes)
    indices, name, (examples, classes) = _tensor(labels, f"{prefix}labels"), f"{prefix}labels", given.shape[1:]
    if indices.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(indices.shape)}; must be (examples,), one class index each")
    if not _whole(indices):
        dtype = str(indices.dtype).removeprefix("torch.")
        raise ValueError(f"{name} has dtype {dtype}; must be integers, the class indices 0..{classes - 1}")
    if len(indices) != examples:
        raise ValueError(f"{name} has {len(indices)} entries; must be {examples}, one for each predicted example")
    outside = indices[(indices < 0) | (indices >= classes)]
    if len(outside):
        raise ValueError(f"{name} holds {outside[0].item()}; must lie in 0..{classes - 1}, there are {classes} classes")
    return given, indices.long()


def as_probabilities(
    values: Values,
    name: str = "probabilities",
    *,
    members: int | None = None,
    examples: int | None = None,
    classes: int | None = None,
) -> Tensor:
    """Return the class probabilities of an ensemble, anything that is (M, N, C), as a tensor on the CPU.

    Raises:
        ValueError: The shape is wrong, a dimension is empty or not the required one, there is only one class, a value
            is negative or not finite, or an example's probabilities do not sum to 1 within ``SUM_TOLERANCE``.
    """
    probabilities = _tensor(values, name)
    _check_shape(probabilities.shape, name, {"members": members, "examples": examples, "classes": classes})
    parts = [probabilities[:, rows] for rows in blocks(probabilities)]
    infinite = next((part[~torch.isfinite(part)] for part in parts if not torch.isfinite(part).all()), None)
    if infinite is not None:
        raise ValueError(f"{name} holds {infinite[0].item()}; must be finite numbers in 0..1")
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
    return probabilities


def _check_shape(shape: torch.Size, name: str, wanted: dict[str, int | None]) -> None:
    if len(shape) != 3 or 0 in shape or shape[2] < 2:
        rule = "must be (members, examples, classes), none empty, at least 2 classes"
        hint = "; for a single member, pass probabilities[None]" if len(shape) == 2 else ""
        raise ValueError(f"{name} has shape {tuple(shape)}; {rule}{hint}")
    for found, (what, number) in zip(shape, wanted.items(), strict=True):
        if number not in (None, found):
            raise ValueError(f"{name} has {found} {what}; must be {number}, as in probabilities")


def _whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _tensor(values: Values, name: str) -> Tensor:
    """Return a tensor on the CPU, whatever the strides, byte order or writability of an array; copy where needed."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise ValueError(f"{name} has dtype {values.dtype}; must be real numbers")
        return values.detach().cpu().to(torch.int64 if _whole(values) else values.dtype)
    try:
        array = np.require(values, requirements=["C", "W"])
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype}; must be real numbers")
    if array.dtype.kind == "f":
        array = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64, copy=False)
    return torch.from_numpy(array)
