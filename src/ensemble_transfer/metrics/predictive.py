"""Predicted class and confidence, and their quality: accuracy, likelihood and Brier score.

Probabilities are (N, C) for one classifier, (M, N, C) for the members of an ensemble; labels are (N,). Inputs
are expected to have passed :mod:`ensemble_transfer.metrics.checks`. Everything is computed in float64.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ensemble_transfer.metrics.ties import steady
from ensemble_transfer.spill import empty, rows_at_once

PROBABILITY_FLOOR = torch.finfo(torch.float64).eps
"""Probabilities are raised to this (2.2e-16) before a logarithm, as scikit-learn's ``log_loss`` does.

A label that was given probability 0 costs 36.04 nats.
"""

_BLOCK = 1024


def blocks(probabilities: Tensor) -> Iterator[slice]:
    """Yield the examples of probabilities (..., N, C) in parts whose float64 copies take some MB."""
    examples = probabilities.shape[-2]
    step = rows_at_once(32 * probabilities.numel() // max(1, examples))
    for start in range(0, max(1, examples), step):
        yield slice(start, start + step)


def of_each(compute: Callable[[Tensor], Tensor], probabilities: Tensor) -> Tensor:
    """Return a value of each example, computed in parts by ``compute``: (..., N, C) -> (..., N)."""
    if probabilities.ndim < 2:
        return compute(probabilities)
    parts = [compute(probabilities[..., rows, :]) for rows in blocks(probabilities)]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def room(like: Tensor, *shape: int) -> Tensor:
    """Return a float64 tensor to be written, on the device of another one; from a file where memory is short."""
    on_cpu = like.device.type == "cpu"
    return empty(*shape, dtype=torch.float64) if on_cpu else like.new_empty(shape, dtype=torch.float64)


def ensemble_mean(probabilities: Tensor) -> Tensor:
    """Average the members in probability space, p = mean_m p_m: (M, N, C) -> float64 (N, C).

    The members are sorted by value first, so that their order does not change a bit of the mean. It is computed as
    p_1 + mean_m (p_m - p_1), so that the mean of identical members is that member, bit for bit.
    """
    members, examples, classes = probabilities.shape
    mean = room(probabilities, examples, classes)
    step = min(_BLOCK, rows_at_once(16 * members * classes))
    for block, place in zip(torch.split(probabilities, step, dim=1), torch.split(mean, step), strict=True):
        ordered = block.sort(dim=0).values
        first = ordered[0].double()
        deviation = torch.zeros_like(first)
        for member in ordered[1:]:
            deviation += member.double() - first
        place.copy_(first + deviation / members)
    return mean


def log_probability(probabilities: Tensor) -> Tensor:
    """Compute the natural logarithm of probabilities, which are raised to ``PROBABILITY_FLOOR``: finite at 0."""
    return probabilities.double().clamp(min=PROBABILITY_FLOOR).log()


def predicted_class(probabilities: Tensor) -> Tensor:
    """Return the most probable class: (..., C) -> (...,).

    If classes tie (to 40 bits), it is the first of them.
    """
    return of_each(lambda part: steady(part).argmax(dim=-1), probabilities)


def confidence(probabilities: Tensor) -> Tensor:
    """Return the probability of the most probable class: (..., C) -> float64 (...,)."""
    return probabilities.amax(dim=-1).double()


def correctness(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return which predictions are right: (..., N, C), (N,) -> bool (..., N)."""
    return predicted_class(probabilities) == labels


def accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the share of examples whose most probable class is the label: (N, C), (N,) -> 0-d."""
    return correctness(probabilities, labels).double().mean()


def balanced_accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean over classes of the share of their examples that are right: (N, C), (N,) -> 0-d.

    Every class that has examples counts alike, however many it has (Brodersen et al. 2010).
    """
    right, counts = correctness(probabilities, labels).double(), labels.bincount()
    return (labels.bincount(right)[counts > 0] / counts[counts > 0]).mean()


def label_log_probability(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y in nats: (N, C), (N,) -> (N,)."""
    return log_probability(probabilities.gather(1, labels[:, None]).squeeze(1))


def nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the negative log likelihood in nats: mean_n -log p_y: (N, C), (N,) -> 0-d."""
    return -label_log_probability(probabilities, labels).mean()


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the Brier score, 0..2: mean_n sum_c (p_c - 1[y = c])^2 (Brier 1950): (N, C), (N,) -> 0-d."""
    scores = []
    for rows in blocks(probabilities):
        target = torch.nn.functional.one_hot(labels[rows], probabilities.shape[1])
        scores.append((probabilities[rows].double() - target).square().sum(dim=1))
    return torch.cat(scores).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Compute the entropy in nats: -sum_c p_c log p_c, with 0 log 0 = 0: (..., C) -> (...,)."""
    return of_each(lambda part: torch.special.entr(part.double()).sum(dim=-1), probabilities)
