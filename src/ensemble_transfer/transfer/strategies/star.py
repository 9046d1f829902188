"""Strategy ``star``: fine-tune copies of the fine-tuned donor."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.training.fit import Start
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class Star:
    """Fine-tune donors fully, then fine-tune copies of them, each with its own order of examples.

    StarSSE does this with one pretrained network (Sadrtdinov et al. 2023, arXiv 2303.03374). The other members of the
    source ensemble are not used. Within a budget, the fine-tunings of the donor and of the copies are cycles of the
    lengths of ``snapshots``; but each copy starts from the donor, not from the cycle before.

    Attributes:
        donors: Number of members that are fully fine-tuned, from the first on. Copies start from them in turns.
        cycle: Length of a copy's training in fine-tunings, by the recipe for full fine-tuning. None for the recipe for
            tiny fine-tuning, or for 0.2 within a budget.
        first: Within a budget, length of the donor's training in fine-tunings, before all are stretched to use the
            budget.
        members: Within a budget, maximum number of members, including the donor.
    """

    name: ClassVar[str] = "star"
    about: ClassVar[str] = "Fine-tune a donor fully and start all others from it, so that members hardly differ."
    role: ClassVar[str] = "method"

    donors: int = 1
    cycle: float | None = None
    first: float = 0.4
    members: int = 8

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")
        for name, value in (("first", self.first), ("cycle", self.cycle)):
            require(value is None or 0 < value < float("inf"), name, value, "must be above 0 and finite")
        require(self.members > 0, "members", self.members, "must be at least 1")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there are more donors than members."""
        require(self.donors <= members, "donors", self.donors, f"must be at most ensemble.size={members}")

    def plan(self, prices: Prices) -> tuple[int, int, int]:
        """Return the steps of a donor, the steps of a copy, and the number of copies.

        See :class:`~ensemble_transfer.transfer.base.Strategy`.
        """
        if prices.limit is not None:
            require(self.donors == 1, "donors", self.donors, "must be 1 within a budget")
            first, *later = prices.cycles(self.first, self.cycle or 0.2, self.members)
            return first, max(later, default=0), len(later)
        full, tiny = prices.recipes.full.steps, prices.recipes.tiny.steps
        steps = tiny if self.cycle is None else max(1, round(self.cycle * full))
        return full, steps, prices.members - self.donors

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        first, steps, copies = self.plan(bench.prices)
        whole = bench.budget is not None or self.cycle is not None
        recipe, phase = (bench.recipes.full, "cycle") if whole else (bench.recipes.tiny, "tiny")
        donors = bench.fine_tune_fully(bench.first_encoders(self.donors), replace(bench.recipes.full, steps=first))
        if not copies:
            return bench.result(self.name, donors.weights, ())
        starts = [
            Start(member, donors.weights[member % self.donors], bench.stream(phase, member))
            for member in range(self.donors, self.donors + copies)
        ]
        fits = bench.fit(starts, replace(recipe, steps=steps), phase)
        return bench.result(self.name, (*donors.weights, *fits.weights), fits.members)
