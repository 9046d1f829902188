"""Strategy ``head``: train new heads on frozen encoders."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class HeadOnly:
    """Freeze the encoders, BatchNorm statistics included, and train new heads on their features.

    Within a budget, as many members get a head as it pays for, from the first on.
    """

    name: ClassVar[str] = "head"
    about: ClassVar[str] = "Freeze the encoders and train new heads only: the cheapest."
    role: ClassVar[str] = "method"

    def check(self, members: int, architecture: Architecture) -> None:
        """Accept any ensemble."""

    def plan(self, prices: Prices) -> int:
        """Return how many members get a head; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        return prices.affordable(prices.head, prices.members, "one new head")

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        starts = bench.with_fresh_heads(bench.first_encoders(self.plan(bench.prices)), "head")
        fits = bench.fit_heads(starts, bench.recipes.head, "head")
        return bench.result(self.name, fits.weights, fits.members)
