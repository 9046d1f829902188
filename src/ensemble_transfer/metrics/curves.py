"""The curves of a record, as plain lists that JSON can hold; an undefined value is None.

Tensors are probabilities (M, N, C), the ensemble's mean (N, C) and labels (N,).
"""

import random
from itertools import combinations
from math import comb
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.metrics import calibration, predictive
from ensemble_transfer.metrics.checks import Values, as_predictions
from ensemble_transfer.metrics.evaluate import calibrated, held_out

SUBSETS = 20
"""Subsets of the members, at most, that a point of the ensemble-size curve is averaged over."""

WORK = SUBSETS * 10**6
"""Values of subsets of a size (examples times classes), at most: to calibrate a subset takes seconds a million."""

CLASSES = 100
"""Classes, at most, of a confusion matrix that a record keeps."""


def curves(probabilities: Values, labels: Values, *, validation: tuple[Values, Values] | None = None) -> dict[str, Any]:
    """Compute the curves of a record, of the arguments of :func:`evaluate`; each is defined at its function.

    Returns:
        ``reliability`` and, after temperature scaling, ``reliability_calibrated``; ``ensemble_size``,
        ``member_accuracy``, and ``confusion`` up to 100 classes.
        Dicts, lists, numbers and None only.
    """
    test, labels = as_predictions(probabilities, labels)
    mean, selected = predictive.ensemble_mean(test), held_out(validation, test)
    fitted_on = None if selected is None else (predictive.ensemble_mean(selected[0]), selected[1])
    return {
        "reliability": calibration.reliability(mean, labels),
        "reliability_calibrated": calibration.reliability(calibrated(mean, labels, fitted_on)[0], labels),
        "ensemble_size": _ensemble_size(test, labels, selected),
        "member_accuracy": predictive.correctness(test, labels).double().mean(-1).tolist(),
        **({"confusion": _confusion(mean, labels)} if mean.shape[1] <= CLASSES else {}),
    }


def _ensemble_size(
    probabilities: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None
) -> dict[str, list[float]]:
    """Compute accuracy and NLL of ensembles of k = 1..M of the members, averaged over subsets.

    All subsets of a size are taken if there are at most ``SUBSETS`` (always so for M <= 6); else that many different
    ones are drawn with a fixed seed. Above a million values (examples times classes) there are fewer. The temperature
    of each subset is fitted on its validation predictions, or on each half of the examples for the other half.
    """
    values = sum(of[0].numel() for of in (probabilities, *(validation or ())[:1]))
    most = max(1, min(SUBSETS, WORK // values))
    curve: dict[str, list[float]] = {"size": [], "subsets": [], "accuracy": [], "nll": [], "calibrated_nll": []}
    for size in range(1, len(probabilities) + 1):
        subsets = _subsets(len(probabilities), size, most)
        curve["size"].append(size)
        curve["subsets"].append(len(subsets))
        quality = [_quality(list(chosen), probabilities, labels, validation) for chosen in subsets]
        for name in quality[0]:
            curve[name].append(sum(of[name] for of in quality) / len(subsets))
    return curve


def _confusion(mean: Tensor, labels: Tensor) -> list[list[int]]:
    """Count the examples by class and prediction: row ``i``, column ``j`` is class i predicted as class j."""
    classes = mean.shape[1]
    pairs = labels * classes + predictive.predicted_class(mean)
    counts: list[list[int]] = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return counts


def _quality(
    chosen: list[int], probabilities: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None
) -> dict[str, float]:
    mean = _mean(chosen, probabilities)
    fitted_on = None if validation is None else (_mean(chosen, validation[0]), validation[1])
    return {
        "accuracy": predictive.accuracy(mean, labels).item(),
        "nll": predictive.nll(mean, labels).item(),
        "calibrated_nll": predictive.nll(calibrated(mean, labels, fitted_on)[0], labels).item(),
    }


def _mean(chosen: list[int], probabilities: Tensor) -> Tensor:
    mean = predictive.room(probabilities, *probabilities.shape[1:])
    for rows in predictive.blocks(probabilities):
        mean[rows] = probabilities[chosen, rows].mean(dim=0, dtype=torch.float64)
    return mean


def _subsets(members: int, size: int, most: int) -> list[tuple[int, ...]]:
    if comb(members, size) <= most:
        return list(combinations(range(members), size))
    generator = random.Random(size)
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < most:
        drawn.add(tuple(sorted(generator.sample(range(members), size))))
    return sorted(drawn)
