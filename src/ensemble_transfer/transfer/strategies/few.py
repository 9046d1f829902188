"""Strategy ``few``: fine-tune a few members fully with the whole budget. It is the rival to beat."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.prices import Prices


@dataclass(frozen=True)
class Few:
    """Fine-tune the first members fully and leave the others out.

    Within a budget, each gets an equal share of it, and a schedule of that length.

    Attributes:
        members: Number of members.
    """

    name: ClassVar[str] = "few"

    members: int = 2

    def __post_init__(self) -> None:
        require(self.members > 0, "members", self.members, "must be at least 1")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if the ensemble has fewer members."""
        require(self.members <= members, "members", self.members, f"must be at most ensemble.size={members}")

    def plan(self, prices: Prices) -> list[int]:
        """Return the steps of every member; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            return [prices.recipes.full.steps] * self.members
        return prices.steps(prices.limit, self.members)

    def run(self, work: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        fits = work.fine_tune_in(work.first_encoders(self.members), self.plan(work.prices))
        return work.result(self.name, fits.weights, fits.members)
