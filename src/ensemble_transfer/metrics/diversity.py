"""Diversity: differences between the members of an ensemble.

Probabilities are (M, N, C). A mean over pairs of a difference is 0 for a single member; a measure of
agreement (error correlation, Q, double fault, kappa) has no value there and is NaN. Pairs for which such a
measure is 0/0, as when a member makes no error, are left out of its mean; without any pair left it is NaN.
Identical members differ by exactly 0, which is why deviations are taken from the first member or within
pairs.
"""

from itertools import combinations

import torch
from torch import Tensor

from ensemble_transfer.metrics.predictive import blocks, ensemble_mean, entropy, label_log_probability, log_probability


def disagreement_matrix(predictions: Tensor) -> Tensor:
    """Compute P(predicted classes differ) for each pair of members: (M, N) -> symmetric (M, M)."""
    return torch.stack([(predictions != member).double().mean(dim=1) for member in predictions])


def disagreement(predictions: Tensor) -> Tensor:
    """Compute the mean over pairs of members of P(classes differ): (M, N) -> 0-d."""
    members = len(predictions)
    return disagreement_matrix(predictions).sum() / max(1, members * (members - 1))


def normalised_disagreement(disagreement: Tensor, member_accuracy: Tensor) -> Tensor:
    """Compute disagreement / (1 - mean member accuracy) (Fort 2019); 0 for members without error."""
    error = 1 - member_accuracy
    return torch.where(error > 0, disagreement / error, torch.zeros_like(error))


def kl(probabilities: Tensor) -> Tensor:
    """Compute the mean KL divergence over ordered pairs of members, in nats.

    mean_{i != j} sum_c p_i (log p_i - log p_j) = sum_c cov_m(p_mc, log p_mc), the covariance over members
    with divisor M - 1; so one pass over the members suffices for all pairs. Probabilities of 0 are raised to the
    floor of :mod:`~ensemble_transfer.metrics.predictive`, which keeps the divergence finite. (M, N, C) -> 0-d, mean
    over examples.
    """
    total = torch.stack([_covariances(probabilities[:, rows]) for rows in blocks(probabilities)]).sum()
    members, examples = probabilities.shape[:2]
    return total.clamp(min=0) / (max(members - 1, 1) * examples)


def _covariances(probabilities: Tensor) -> Tensor:
    """Return the sum of (M - 1) cov_m(p_mc, log p_mc) over examples and classes: (M, N, C) -> 0-d."""
    first, log_first = probabilities[0].double(), log_probability(probabilities[0])
    total, log_total, product = torch.zeros_like(first), torch.zeros_like(first), torch.zeros_like(first)
    for member in probabilities[1:]:
        deviation, log_deviation = member.double() - first, log_probability(member) - log_first
        total += deviation
        log_total += log_deviation
        product += deviation * log_deviation
    return (product - total * log_total / len(probabilities)).sum()


def js(probabilities: Tensor) -> Tensor:
    """Compute the mean Jensen-Shannon divergence over pairs of members, in nats (at most log 2).

    H((p_i + p_j) / 2) - (H(p_i) + H(p_j)) / 2, with entropies H. (M, N, C) -> 0-d, mean over examples.
    """
    entropies = [entropy(member) for member in probabilities]
    divergences = []
    for i, j in combinations(range(len(entropies)), 2):
        pairs = (probabilities[[i, j], rows].double() for rows in blocks(probabilities[i]))
        between = torch.cat([entropy((one + other) / 2) for one, other in pairs])
        divergences.append((between - (entropies[i] + entropies[j]) / 2).mean())
    return torch.stack(divergences).mean().clamp(min=0) if divergences else entropies[0].new_zeros(())


def mutual_information(probabilities: Tensor) -> Tensor:
    """Compute the mutual information of prediction and member in nats: H(p) - mean_m H(p_m).

    It equals the M-way Jensen-Shannon divergence of the members (Depeweg 2018). (M, N, C) -> float64 (N,), at least 0;
    bit for bit independent of the order of the members.
    """
    of_mean = entropy(ensemble_mean(probabilities))
    gaps = torch.stack([of_mean - entropy(member) for member in probabilities])
    return gaps.sort(dim=0).values.mean(dim=0).clamp(min=0)


def jensen_gap(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the ambiguity: mean member NLL - ensemble NLL, in nats (Wood 2023): (M, N, C), (N,) -> 0-d.

    It is at least 0, except for probabilities below the floor of the logarithm.
    """
    of_mean = label_log_probability(ensemble_mean(probabilities), labels)
    gaps = [(of_mean - label_log_probability(member, labels)).mean() for member in probabilities]
    gap = torch.stack(gaps).mean()
    return torch.where((gap < 0) & (gap > -1e-12), 0.0, gap)


def pair_table(correct: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count, for each pair of members i < j, the examples by who is right (Kuncheva & Whitaker 2003): bool (M, N).

    Returns:
        a: both right, b: only i right, c: only j right, d: both wrong; each (M (M - 1) / 2,), the order of the upper
        triangle.
    """
    right = correct.double()
    together = right @ right.T
    i, j = torch.triu_indices(len(right), len(right), offset=1, device=right.device)
    alone, both = right.sum(dim=1), together[i, j]
    return both, alone[i] - both, alone[j] - both, right.shape[1] - alone[i] - alone[j] + both


def error_correlation(correct: Tensor) -> Tensor:
    """Compute the mean over pairs of the correlation of errors: (a d - b c) / sqrt((a+b)(c+d)(a+c)(b+d)).

    a, b, c, d are the :func:`pair_table` of bool (M, N). 0-d, in -1..1, or NaN.
    """
    a, b, c, d = pair_table(correct)
    return ((a * d - b * c) / ((a + b) * (c + d) * (a + c) * (b + d)).sqrt()).nanmean()


def q_statistic(correct: Tensor) -> Tensor:
    """Compute the mean over pairs of Yule's Q: (a d - b c) / (a d + b c): bool (M, N) -> 0-d, in -1..1, or NaN."""
    a, b, c, d = pair_table(correct)
    return ((a * d - b * c) / (a * d + b * c)).nanmean()


def double_fault(correct: Tensor) -> Tensor:
    """Compute the mean over pairs of P(both wrong): d / N: bool (M, N) -> 0-d, in 0..1, or NaN."""
    return pair_table(correct)[3].mean() / correct.shape[1]


def kappa(correct: Tensor) -> Tensor:
    """Compute the mean over pairs of Cohen's kappa of being right: 2 (a d - b c) / ((a+b)(b+d) + (a+c)(c+d)).

    Bool (M, N) -> 0-d, in -1..1, or NaN.
    """
    a, b, c, d = pair_table(correct)
    return (2 * (a * d - b * c) / ((a + b) * (b + d) + (a + c) * (c + d))).nanmean()
