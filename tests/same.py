"""Whether two sets of weights are the same, bit for bit."""

import torch

from ensemble_transfer.weights import Weights


def equal(a: Weights, b: Weights) -> bool:
    """Return whether the tensors have the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
