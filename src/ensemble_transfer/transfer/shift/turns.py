"""Shift members as several donors moved, in turns, by a scale that is chosen on validation."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights, add_scaled, below, subtract


def require_scales(scales: Sequence[float]) -> None:
    """Raise a SettingError unless there is a scale, and all are finite."""
    usable = bool(scales) and all(math.isfinite(scale) for scale in scales)
    require(usable, "scales", list(scales), "must be one or more finite numbers")


def recipient_price(prices: Prices) -> int:
    """Return what a shifted member costs, in FLOPs: statistics and a probed head."""
    return prices.statistics + prices.probe


def moves_in_turns(
    work: Workbench, donors: Mapping[int, Weights], members: Sequence[int]
) -> dict[int, dict[str, Tensor]]:
    """Return the vector by which each member is shifted: that of the donor whose turn it is.

    Args:
        work: The workbench.
        donors: Weights of the donors after their fine-tuning, by member.
        members: Members to shift.
    """
    vectors = [subtract(below(weights, "encoder"), work.encoders[donor]) for donor, weights in donors.items()]
    return {member: vectors[place % len(vectors)] for place, member in enumerate(members)}


def shifted_members(work: Workbench, moves: Mapping[int, Weights], scale: float) -> list[Weights]:
    """Shift members, estimate their BatchNorm statistics on the target, and train a head for each."""
    moved: Mapping[int, Weights] = {m: add_scaled(work.encoders[m], move, scale) for m, move in moves.items()}
    return [start.weights for start in work.with_probed_heads(work.reestimate_statistics(moved))]


def best_scale(work: Workbench, moves: Mapping[int, Weights], scales: Sequence[float]) -> tuple[float, Candidate]:
    """Return the scale with which the first member has the lowest calibrated NLL on validation, and this member.

    Every trial is billed.
    """
    labels, first, trials = work.target.validation.labels, dict([next(iter(moves.items()))]), {}
    for scale in scales:
        members = shifted_members(work, first, scale)
        trials[scale] = Candidate("shifted", members, work.look(members))
    best = min(trials, key=lambda scale: float(trials[scale].losses(labels).mean()))
    return best, trials[best]
