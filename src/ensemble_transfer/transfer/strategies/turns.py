"""Strategy ``turns``: fine-tune a few donors, and shift the other members as the donors moved, in turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import require_sizes
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.prices import FIXED, Prices
from ensemble_transfer.transfer.shift.vector import donor_weights
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights, add_scaled, below, joined, subtract


@dataclass(frozen=True)
class Turns:
    """Fine-tune a few donors fully; shift each other member as one of them moved, in turns, and train its head.

    The donors alone are ``few``. Unlike the mean of the donors' shifts, shifts in turns carry over what each donor
    learned for itself, and so how the donors disagree. The scale is chosen on validation, with the first shifted
    member, and billed.

    Within a budget, shifted members and trials of scales take at most a quarter of it; if necessary, fewer members are
    shifted. The donors share the rest.

    Attributes:
        donors: Number of members that are fully fine-tuned, from the first on.
        members: Number of transferred members, including the donors; None for all.
        scales: Scales to choose from; a single one is used without a choice.
        head: Where the heads of shifted members come from: ``probe`` to train them on frozen features, ``donor`` to
            copy the head of the donor whose turn it is, which costs nothing.
        image_size: Image size of the members, in pixels; None for that of the dataset.
    """

    name: ClassVar[str] = "turns"
    about: ClassVar[str] = (
        "Fine-tune a few donors fully, shift the others as the donors moved, in turns, and train their heads."
    )
    role: ClassVar[str] = "method"
    shifts: ClassVar[bool] = True

    donors: int = 2
    members: int | None = None
    scales: list[float] = field(default_factory=lambda: [0.5, 0.7, 1.0])
    head: str = "probe"
    image_size: int | None = None

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")
        enough = self.members is None or self.members > self.donors
        require(enough, "members", self.members, f"must be above donors={self.donors}, or null for all")
        usable = bool(self.scales) and all(isfinite(scale) for scale in self.scales)
        require(usable, "scales", list(self.scales), "must be one or more finite numbers")
        require(self.head in ("probe", "donor"), "head", self.head, "must be one of probe, donor")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if no member of the ensemble is left to shift."""
        rule = f"must be below ensemble.size={members}, since the other members are shifted"
        require(self.donors < members, "donors", self.donors, rule)
        rule = f"must be at most ensemble.size={members}"
        require(self.members is None or self.members <= members, "members", self.members, rule)
        require_sizes(self.image_size, architecture, several=False)

    def plan(self, prices: Prices) -> tuple[list[int], int]:
        """Return the steps of every donor, and how many members are shifted.

        See :class:`~ensemble_transfer.transfer.base.Strategy`.
        """
        prices, wanted = prices.at(self.image_size), (self.members or prices.members) - self.donors
        if prices.limit is None:
            return [prices.recipes.full.steps] * self.donors, wanted
        price, trials = self.price(prices), len(self.scales)
        aside = (trials - 1) * price + trials * prices.look if trials > 1 else 0
        least = max(ceil((aside + price) / FIXED), aside + price + self.donors * prices.step)
        prices.require_limit(least, f"{self.name} with one recipient")
        most = min(int(FIXED * prices.limit), prices.limit - self.donors * prices.step)
        recipients = min(wanted, (most - aside) // price) if price else wanted
        return prices.steps(prices.limit - aside - recipients * price, self.donors), recipients

    def price(self, prices: Prices) -> int:
        """Return what a shifted member costs, in FLOPs: statistics and, unless it gets a donor's, a head."""
        return prices.statistics + (prices.probe if self.head == "probe" else 0)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        steps, shifts = self.plan(bench.prices)
        bench = bench.at(self.image_size)
        fits = bench.fine_tune_in(range(self.donors), steps)
        recipients = range(self.donors, self.donors + shifts)
        donors = dict(zip(fits.members, fits.weights, strict=True))
        scale, shifted = self.scales[0], list[Weights]()
        if len(self.scales) > 1:
            scale, shifted = self._best_scale(bench, donors)
        shifted += self.add(bench, donors, recipients[len(shifted) :], scale)
        ensemble = bench.ensemble((*fits.weights, *shifted), self.name)
        decisions = {"scale": scale, "donor_weights": donor_weights(bench.source, donors)}
        decisions["target_task"] = bench.target.fingerprint
        return TransferResult(ensemble, bench.ledger, tuple(recipients), decisions={"turns": decisions})

    def add(
        self, bench: Workbench, donors: Mapping[int, Weights], members: Sequence[int], scale: float
    ) -> list[Weights]:
        """Shift members, during a transfer or at any later time; estimate their statistics, and give each a head.

        The result for a member depends only on its own weights and index, the donors and the scale. So a member that is
        added later equals the one that would have been there from the start.

        Args:
            bench: The workbench.
            donors: The donors' weights after their fine-tuning, by member.
            members: Indices of the members to shift, all after the donors.
            scale: How far they are shifted, as a multiple of a donor's move.
        """
        turns = {member: self.turn(member, list(donors)) for member in members}
        moved: dict[int, Weights] = {}
        for member, donor in turns.items():
            move = subtract(below(donors[donor], "encoder"), bench.encoders[donor])
            moved[member] = add_scaled(bench.encoders[member], move, scale)
        encoders = bench.reestimate_statistics(moved)
        if self.head == "probe":
            return [start.weights for start in bench.with_probed_heads(encoders)]
        return [
            joined(encoder=encoder, head=below(donors[turns[member]], "head")) for member, encoder in encoders.items()
        ]

    def turn(self, member: int, donors: Sequence[int]) -> int:
        """Return the donor whose turn it is for a member."""
        return donors[(member - self.donors) % len(donors)]

    def _best_scale(self, bench: Workbench, donors: Mapping[int, Weights]) -> tuple[float, list[Weights]]:
        """Return the scale with which the first recipient has the lowest calibrated NLL on validation, and this member.

        Every trial is billed: one to the member, as any member costs, the others as the search that they are.
        """
        labels, trials = bench.target.validation.labels, dict[float, Candidate]()
        for place, scale in enumerate(self.scales):
            paid = bench if place == 0 else bench.billing("scale search")
            members = self.add(paid, donors, [self.donors], scale)
            trials[scale] = Candidate("shifted", members, bench.look(members))
        best = min(trials, key=lambda scale: trials[scale].nll(labels))
        return best, [*trials[best].members]
