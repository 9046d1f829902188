"""Strategy ``matched``: fine-tune every member fully within a budget."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class Matched:
    """Fine-tune every member fully with the whole budget. Without a budget, spend what ``shift`` spends by default.

    Each member gets an equal share in whole steps, and a schedule of that length. The first members get the remaining
    steps. So the total is at most one step below the budget.

    Attributes:
        donors: Number of donors of the ``shift`` whose cost is matched, without a budget.
    """

    name: ClassVar[str] = "matched"
    about: ClassVar[str] = "Fine-tune every member fully with the whole budget, or with all that shift would spend."
    role: ClassVar[str] = "method"

    donors: int = 1

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there are more donors than members."""
        require(self.donors <= members, "donors", self.donors, f"must be at most ensemble.size={members}")

    def plan(self, prices: Prices) -> list[int]:
        """Return the steps of every member; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        limit = prices.limit
        if limit is None:  # what shift spends by the recipes, with probed heads and re-estimated statistics
            recipient = prices.statistics + prices.probe + prices.tiny
            limit = self.donors * prices.full + (prices.members - self.donors) * recipient
        return prices.steps(limit, prices.members)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        fits = bench.fine_tune_in(bench.encoders, self.plan(bench.prices))
        return bench.result(self.name, fits.weights, fits.members)
