"""Detection of examples out of distribution by uncertainty.

Out of distribution is the positive class, and a higher score means more likely out of distribution.
"""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

from ensemble_transfer.metrics.diversity import mutual_information
from ensemble_transfer.metrics.predictive import confidence, ensemble_mean, entropy
from ensemble_transfer.metrics.ties import steady


def scores(probabilities: Tensor) -> dict[str, Tensor]:
    """Compute scores of being out of distribution, in 0..1, by name: (M, N, C) -> (N,) each.

    ``max_probability`` is 1 - max_c p_c (Hendrycks 2017); ``entropy`` and ``mutual_information`` are those of the
    ensemble, divided by log C.
    """
    mean = ensemble_mean(probabilities)
    most = math.log(mean.shape[1])
    found = {
        "max_probability": 1 - confidence(mean),
        "entropy": entropy(mean) / most,
        "mutual_information": mutual_information(probabilities) / most,
    }
    return {name: steady(score.clamp(0, 1)) for name, score in found.items()}


def detection(own: Tensor, ood: Tensor) -> dict[str, Tensor]:
    """Measure how well a score separates two sets of examples.

    Args:
        own: Scores in 0..1 of the task's examples: (N,).
        ood: Scores in 0..1 of the examples out of distribution: (K,).

    Returns:
        Each 0-d: ``auroc``; ``aupr``, the average precision; ``fpr95``, the share of the task's examples
        flagged at the highest threshold that flags at least 95% of those out of distribution. Chance: 0.5, K
        / (N + K), 0.95.
    """
    score = torch.cat([own, ood])
    positive = torch.cat([torch.zeros_like(own), torch.ones_like(ood)]).long()
    false_positive, true_positive, _ = binary_roc(score, positive, validate_args=False)
    return {
        "auroc": binary_auroc(score, positive, validate_args=False),
        "aupr": binary_average_precision(score, positive, validate_args=False),
        "fpr95": false_positive[true_positive >= 0.95][0],
    }
