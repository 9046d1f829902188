"""Strategies ``full``, the traditional approach, and ``lp_ft``, the same from a probed head."""

from dataclasses import dataclass

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.prices import Prices, stretched
from ensemble_transfer.transfer.workbench import TransferResult, Workbench


@dataclass(frozen=True)
class Full:
    """Fine-tune every member fully on the target task.

    Within a budget, ``lp_ft`` stretches its schedules. ``full`` defines the unit of a budget and keeps its recipe; use
    ``few`` for full fine-tuning within a budget.

    Attributes:
        head: How heads start: ``fresh`` for random weights, ``probe`` to train them on frozen features first (LP-FT;
            Kumar et al. 2022, arXiv 2202.10054).
    """

    head: str = "fresh"

    def __post_init__(self) -> None:
        require(self.head in ("fresh", "probe"), "head", self.head, "must be one of fresh, probe")

    @property
    def name(self) -> str:
        """``full``, or ``lp_ft`` from a probed head."""
        return "full" if self.head == "fresh" else "lp_ft"

    @property
    def about(self) -> str:
        """What it does, in a line."""
        if self.head == "fresh":
            return "Fine-tune every member fully: the traditional approach, M times the cost."
        return "Probe the heads on frozen features first, then fine-tune every member fully."

    @property
    def role(self) -> str:
        """``full`` is the reference of worth."""
        return "reference" if self.head == "fresh" else "method"

    def check(self, members: int, architecture: Architecture) -> None:
        """Accept any ensemble."""

    def plan(self, prices: Prices) -> Recipe:
        """Return the recipe of every member; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        recipe, members = prices.recipes.full, prices.members
        if self.head == "fresh":
            instead = f"strategy=few strategy.members={members} fits them into a budget"
            what = f"full fine-tuning of {members} members by the recipe ({instead})"
            prices.require_limit(members * prices.full, what)
            return recipe
        what, probes = f"lp_ft of {members} members", members * prices.probe
        prices.require_limit(probes + members * prices.step, what)
        return stretched(recipe, prices.scaled(probes, members * prices.full, what))

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        recipe = self.plan(bench.prices)
        if self.head == "probe":
            fits = bench.fit(bench.with_probed_heads(bench.encoders, "full"), recipe, "full")
        else:
            fits = bench.fine_tune_fully(bench.encoders, recipe)
        return bench.result(self.name, fits.weights, fits.members)
