"""Strategy ``scratch``: train on the target alone, as a control."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.training.fit import Start
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class Scratch:
    """Train members from random weights, as many as the source ensemble has, by the recipe for full fine-tuning.

    Within a budget, each gets an equal share of it.
    """

    name: ClassVar[str] = "scratch"
    about: ClassVar[str] = "Train every member on the target task alone, from random weights: no transfer."
    role: ClassVar[str] = "control"

    def check(self, members: int, architecture: Architecture) -> None:
        """Accept any ensemble."""

    def plan(self, prices: Prices) -> int:
        """Return the steps of every member; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            return prices.recipes.full.steps
        return prices.steps(prices.limit, prices.members)[-1]

    def run(self, bench: Workbench) -> TransferResult:
        """Return the ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        recipe = replace(bench.recipes.full, steps=self.plan(bench.prices))
        starts = [
            Start(member, bench.architecture.initial(bench.stream("scratch", member)), bench.stream("full", member))
            for member in range(len(bench.source))
        ]
        fits = bench.fit(starts, recipe, "scratch")
        ensemble = replace(bench.ensemble(fits.weights, self.name), lineage="independent")
        return TransferResult(ensemble, bench.ledger, fits.members)
