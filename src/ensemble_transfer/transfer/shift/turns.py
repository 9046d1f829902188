"""Shift members as several donors moved, in turns, by a scale that is chosen on validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ensemble_transfer.errors import require
from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights, add_scaled, below, joined, subtract


def require_scales(scales: Sequence[float]) -> None:
    """Raise a SettingError unless there is a scale, and all are finite."""
    usable = bool(scales) and all(math.isfinite(scale) for scale in scales)
    require(usable, "scales", list(scales), "must be one or more finite numbers")


def recipient_price(prices: Prices, head: str = "probe") -> int:
    """Return what a shifted member costs, in FLOPs: statistics and, unless it gets a donor's, a head."""
    return prices.statistics + (prices.probe if head == "probe" else 0)


@dataclass(frozen=True)
class Moves:
    """How members are shifted: each as the donor whose turn it is moved.

    Attributes:
        bench: The workbench.
        donors: Weights of the donors after their fine-tuning, by member.
        members: The members that are shifted, by the donor whose turn it is.
        head: Where their heads come from: ``probe`` to train them on frozen features, ``donor`` to copy the donor's.
    """

    bench: Workbench
    donors: Mapping[int, Weights] = field(repr=False)
    members: Mapping[int, int]
    head: str = "probe"

    @classmethod
    def in_turns(
        cls, bench: Workbench, donors: Mapping[int, Weights], members: Sequence[int], head: str = "probe"
    ) -> "Moves":
        """Return the moves of members that take the donors in turns."""
        order = list(donors)
        return cls(bench, donors, {m: order[place % len(order)] for place, m in enumerate(members)}, head)

    def of(self, members: Sequence[int]) -> "Moves":
        """Return the moves of some of the members."""
        return replace(self, members={member: self.members[member] for member in members})

    def shifted(self, scale: float, bench: Workbench | None = None) -> list[Weights]:
        """Shift the members, estimate their BatchNorm statistics on the target, and give each a head.

        Args:
            scale: How far they are shifted, as a multiple of their donor's move.
            bench: Workbench to bill; by default that of the moves.
        """
        bench = bench or self.bench
        moved: dict[int, Weights] = {}
        for member, donor in self.members.items():
            move = subtract(below(self.donors[donor], "encoder"), bench.encoders[donor])
            moved[member] = add_scaled(bench.encoders[member], move, scale)
        encoders = bench.reestimate_statistics(moved)
        if self.head == "probe":
            return [start.weights for start in bench.with_probed_heads(encoders)]
        heads = {member: below(self.donors[donor], "head") for member, donor in self.members.items()}
        return [joined(encoder=encoder, head=heads[member]) for member, encoder in encoders.items()]


def best_scale(moves: Moves, scales: Sequence[float]) -> tuple[float, Candidate]:
    """Return the scale with which the first member has the lowest calibrated NLL on validation, and this member.

    Every trial is billed: one to the member, as any member costs, the others as the search that they are.
    """
    bench, labels, trials = moves.bench, moves.bench.target.validation.labels, dict[float, Candidate]()
    first = moves.of([next(iter(moves.members))])
    for place, scale in enumerate(scales):
        members = first.shifted(scale, bench if place == 0 else bench.billing("scale search"))
        trials[scale] = Candidate("shifted", members, bench.look(members))
    best = min(trials, key=lambda scale: float(trials[scale].losses(labels).mean()))
    return best, trials[best]
