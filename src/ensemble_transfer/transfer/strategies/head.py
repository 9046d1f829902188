"""Strategy ``head``: train new heads on frozen encoders."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.prices import Prices


@dataclass(frozen=True)
class HeadOnly:
    """Freeze the encoders, BatchNorm statistics included, and train new heads on their features.

    Within a budget, as many members get a head as it pays for, from the first on.
    """

    name: ClassVar[str] = "head"

    def check(self, members: int, architecture: Architecture) -> None:
        """Accept any ensemble."""

    def plan(self, prices: Prices) -> int:
        """Return how many members get a head; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        return prices.affordable(prices.head, prices.members, "one new head")

    def run(self, work: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        starts = work.with_fresh_heads(work.first_encoders(self.plan(work.prices)), "head")
        fits = work.fit_heads(starts, work.recipes.head, "head")
        return work.result(self.name, fits.weights, fits.members)
