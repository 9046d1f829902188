"""Choose among candidate ensembles by calibrated NLL on validation, with intervals of the differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.metrics.calibration import apply_temperature, fit_temperature
from ensemble_transfer.metrics.predictive import ensemble_mean, label_log_probability
from ensemble_transfer.weights import Weights

REACH = 1.96
"""Half width of a 95% interval of a normal mean, in standard errors."""


@dataclass(frozen=True)
class Candidate:
    """An ensemble that may be chosen.

    Attributes:
        name: Short description.
        members: Weights of its members.
        probabilities: Predictions for the validation images: (members, examples, classes).
    """

    name: str
    members: Sequence[Weights] = field(repr=False)
    probabilities: Tensor = field(repr=False)

    def losses(self, labels: Tensor) -> Tensor:
        """Compute the calibrated NLL of every validation image, in nats: (examples,).

        The temperature is fitted on the same images, so a candidate that is merely overconfident is not at a
        disadvantage. That is too kind by one parameter to every candidate alike. To fit it on either half and use it
        on the other is kind to none, but steady with many images only: 10 that are all right give a temperature that a
        single error elsewhere pays dearly for. Probabilities have the floor that they have in every NLL.
        """
        probabilities = ensemble_mean(self.probabilities)
        return -label_log_probability(apply_temperature(probabilities, fit_temperature(probabilities, labels)), labels)

    def nll(self, labels: Tensor) -> float:
        """Return the mean of :meth:`losses`; infinite for a candidate whose probabilities are not finite."""
        return _mean(self.losses(labels))

    def accuracy(self, labels: Tensor) -> float:
        """Return the accuracy of the mean probabilities on the validation images."""
        return float((ensemble_mean(self.probabilities).argmax(-1) == labels).double().mean())


def joined_candidates(name: str, *parts: Candidate) -> Candidate:
    """Join candidates into one that has the members of all."""
    members = [member for part in parts for member in part.members]
    return Candidate(name, members, torch.cat([part.probabilities for part in parts]))


def differ(one: Candidate, other: Candidate, labels: Tensor) -> bool:
    """Return whether one of two candidates is clearly better on validation.

    That is, whether the 95% interval of the mean difference of their calibrated NLL, paired by images, leaves out 0.
    """
    mean, error = _difference(one.losses(labels), other.losses(labels))
    return abs(mean) > error


def _mean(losses: Tensor) -> float:
    mean = float(losses.mean())
    return mean if math.isfinite(mean) else math.inf


def _difference(losses: Tensor, others: Tensor) -> tuple[float, float]:
    """Return the mean of the differences of two candidates' losses (examples,), and half of its 95% interval."""
    differences = (losses - others).double()
    error = REACH * float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return float(differences.mean()), error


def choose(candidates: Sequence[Candidate], labels: Tensor) -> tuple[Candidate, list[dict[str, Any]]]:
    """Choose the candidate with the lowest calibrated NLL on validation.

    Args:
        candidates: At least one. The first wins ties.
        labels: Labels of the validation images: (examples,).

    Returns:
        The chosen candidate, and plain data about each candidate: ``name``, ``members``, ``accuracy``, ``nll``
        (calibrated), ``behind`` (its NLL minus that of the chosen one, mean over images), ``low`` and ``high`` (95%
        interval of ``behind``) and ``taken``.
    """
    losses = [candidate.losses(labels) for candidate in candidates]
    best = min(range(len(candidates)), key=lambda index: _mean(losses[index]))
    scores = []
    for index, (candidate, own) in enumerate(zip(candidates, losses, strict=True)):
        behind, error = _difference(own, losses[best])
        scores.append(
            {
                "name": candidate.name,
                "members": len(candidate.members),
                "accuracy": candidate.accuracy(labels),
                "nll": float(own.mean()),
                "behind": behind,
                "low": behind - error,
                "high": behind + error,
                "taken": index == best,
            }
        )
    return candidates[best], scores
