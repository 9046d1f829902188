"""Predicted class and confidence, and their quality: accuracy, likelihood and Brier score.

Probabilities are (N, C) for one classifier, (M, N, C) for the members of an ensemble; labels are (N,). Inputs
are expected to have passed :mod:`ensemble_transfer.metrics.checks`. Everything is computed in float64.
"""

import torch
from torch import Tensor

from ensemble_transfer.metrics.ties import steady

PROBABILITY_FLOOR = torch.finfo(torch.float64).eps
"""Probabilities are raised to this (2.2e-16) before a logarithm, as scikit-learn's ``log_loss`` does.

A label that was given probability 0 costs 36.04 nats.
"""

_BLOCK = 1024


def ensemble_mean(probabilities: Tensor) -> Tensor:
    """Average the members in probability space: p = mean_m p_m.

    The members are sorted by value first, so that their order does not change a bit of the mean. It is computed as
    p_1 + mean_m (p_m - p_1), so that the mean of identical members is that member, bit for bit.

    Args:
        probabilities: (M, N, C).

    Returns:
        float64 (N, C).
    """
    return torch.cat([_mean_in_order(block) for block in torch.split(probabilities, _BLOCK, dim=1)])


def _mean_in_order(probabilities: Tensor) -> Tensor:
    ordered = probabilities.sort(dim=0).values
    first = ordered[0].double()
    deviation = torch.zeros_like(first)
    for member in ordered[1:]:
        deviation += member.double() - first
    return first + deviation / len(ordered)


def log_probability(probabilities: Tensor) -> Tensor:
    """Compute the natural logarithm of probabilities, which are raised to ``PROBABILITY_FLOOR``: finite at 0."""
    return probabilities.double().clamp(min=PROBABILITY_FLOOR).log()


def predicted_class(probabilities: Tensor) -> Tensor:
    """Return the most probable class: (..., C) -> (...,).

    If classes tie (to 40 bits), it is the first of them.
    """
    return steady(probabilities).argmax(dim=-1)


def confidence(probabilities: Tensor) -> Tensor:
    """Return the probability of the most probable class: (..., C) -> float64 (...,)."""
    return probabilities.double().amax(dim=-1)


def correctness(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return which predictions are right: (..., N, C), (N,) -> bool (..., N)."""
    return predicted_class(probabilities) == labels


def accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the share of examples whose most probable class is the label: (N, C), (N,) -> 0-d."""
    return correctness(probabilities, labels).double().mean()


def label_log_probability(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y in nats: (N, C), (N,) -> (N,)."""
    return log_probability(probabilities.gather(1, labels[:, None]).squeeze(1))


def nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the negative log likelihood in nats: mean_n -log p_y: (N, C), (N,) -> 0-d."""
    return -label_log_probability(probabilities, labels).mean()


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the Brier score, 0..2: mean_n sum_c (p_c - 1[y = c])^2 (Brier 1950): (N, C), (N,) -> 0-d."""
    target = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return (probabilities.double() - target).square().sum(dim=1).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Compute the entropy in nats: -sum_c p_c log p_c, with 0 log 0 = 0: (..., C) -> (...,)."""
    terms: Tensor = torch.special.entr(probabilities.double())
    return terms.sum(dim=-1)
