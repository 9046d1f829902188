"""Strategy ``tiny``: fine-tune recipients without a shift, as a control."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.prices import Prices, stretched
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class Tiny:
    """Treat every member like a recipient of ``shift``, without the shift: statistics, probe, tiny fine-tuning.

    Within a budget, as many members are treated as it pays for, from the first on. What is left lengthens schedules.
    """

    name: ClassVar[str] = "tiny"
    about: ClassVar[str] = "Give every member the recipient's treatment without the shift: the control."
    role: ClassVar[str] = "control"

    def check(self, members: int, architecture: Architecture) -> None:
        """Accept any ensemble."""

    def plan(self, prices: Prices) -> tuple[int, Recipe]:
        """Return the number of members and their recipe; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        fixed = prices.statistics + prices.probe
        members = prices.affordable(fixed + prices.tiny, prices.members, "one tiny fine-tuning")
        factor = prices.scaled(members * fixed, members * prices.tiny, "one tiny fine-tuning")
        return members, stretched(prices.recipes.tiny, factor)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        members, recipe = self.plan(bench.prices)
        encoders = bench.reestimate_statistics(bench.first_encoders(members))
        fits = bench.fit(bench.with_probed_heads(encoders), recipe, "tiny")
        return bench.result(self.name, fits.weights, fits.members)
