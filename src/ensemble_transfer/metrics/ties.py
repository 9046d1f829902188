"""Treat values that differ by rounding as equal, so that the order of members and examples changes no metric."""

import torch
from torch import Tensor

_SPLITTER = 2.0**13 + 1


def steady(values: Tensor) -> Tensor:
    """Round to 40 significant bits, so that values that differ only by the rounding of sums compare equal.

    Decisions (the predicted class, ranks) are taken on rounded values, as (0.3 + 0.3) / 2 and (0.2 + 0.4) / 2
    differ in their last bit; sums and logarithms are not. One such pair in some thousands, at the edge
    between two rounded values, still differs. Veltkamp's splitting of the 53 bits: with s = 2^13 + 1, the
    upper part of x is s x - (s x - x). Magnitudes are below 1e300; the result is float64.
    """
    values = values.double()
    scaled = values * _SPLITTER
    return scaled - (scaled - values)


def tie_averaged(values: Tensor, *, by: Tensor) -> Tensor:
    """Sort values by a falling key, and replace each by the mean over the examples with the same key.

    This is the expectation of the ordered values over a random order within each tie: (N,), (N,) -> float64 (N,).
    """
    order = by.argsort(descending=True)
    _, block, count = torch.unique_consecutive(by[order], return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=torch.float64, device=values.device)
    total.scatter_add_(0, block, values[order].double())
    mean: Tensor = total / count
    return mean[block]
