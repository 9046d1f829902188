"""A choice among candidate ensembles on validation: what each promises, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.metrics.calibration import cross_calibrate
from ensemble_transfer.metrics.predictive import ensemble_mean
from ensemble_transfer.weights import Weights

REACH = 1.96
"""Standard errors in a 95% interval of a normal mean."""


@dataclass(frozen=True)
class Candidate:
    """An ensemble that could be taken.

    Attributes:
        name: What it is.
        members: Weights of its members.
        probabilities: Their predictions (members, examples, classes) for the validation images.
    """

    name: str
    members: Sequence[Weights]
    probabilities: Tensor

    def losses(self, labels: Tensor) -> Tensor:
        """Return the calibrated NLL of every validation image (examples,), in nats.

        The temperature of each half of the images is fitted on the other half, so that an overconfident candidate is
        not held back by what a temperature mends.
        """
        scaled, _ = cross_calibrate(ensemble_mean(self.probabilities), labels)
        return -scaled.gather(1, labels[:, None]).squeeze(1).clamp(min=torch.finfo(scaled.dtype).tiny).log()

    def accuracy(self, labels: Tensor) -> float:
        """Return the accuracy on the validation images."""
        return float((ensemble_mean(self.probabilities).argmax(-1) == labels).double().mean())


def joined_candidates(name: str, *parts: Candidate) -> Candidate:
    """Return the candidate that has the members of several."""
    members = [member for part in parts for member in part.members]
    return Candidate(name, members, torch.cat([part.probabilities for part in parts]))


def choose(candidates: Sequence[Candidate], labels: Tensor) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the candidate of the lowest calibrated NLL on validation, and what each promised, as plain data.

    Args:
        candidates: At least one; the first wins ties.
        labels: Of the validation images (examples,).

    Returns:
        The candidate, and for each: ``name``, ``members``, ``accuracy``, ``nll`` (calibrated), ``behind`` (its NLL
        minus that of the one taken, the mean over the images), ``low`` and ``high`` (the 95% interval of ``behind``)
        and ``taken``.
    """
    losses = [candidate.losses(labels) for candidate in candidates]
    best = min(range(len(candidates)), key=lambda index: float(losses[index].mean()))
    told = []
    for index, (candidate, own) in enumerate(zip(candidates, losses, strict=True)):
        difference = (own - losses[best]).double()
        error = REACH * float(difference.std()) / math.sqrt(len(labels)) if len(labels) > 1 else math.nan
        behind = float(difference.mean())
        told.append(
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
    return candidates[best], told
