"""Strategy ``few``: fine-tune a few members fully with the whole budget. It is the rival to beat."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any, ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import require_sizes, sizes_of
from ensemble_transfer.training.fit import Start
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights


@dataclass(frozen=True)
class Few:
    """Fine-tune the first members fully and leave the others out.

    Within a budget, each gets an equal share of it, and a schedule of that length. With cycles, each member leaves
    snapshots: it is kept after each cycle, and the next continues from there with a new schedule (Huang et al. 2017,
    arXiv 1704.00109). So the ensemble has ``members * len(cycles)`` networks.

    Attributes:
        members: Number of members.
        cycles: Relative lengths of a member's cycles, such as ``[0.6, 0.2, 0.2]``; empty for one schedule.
        image_size: Image size of the members, in pixels; several are theirs in turns. None for that of the dataset.
    """

    name: ClassVar[str] = "few"
    about: ClassVar[str] = "Fine-tune a few members fully with the whole budget: the rival to beat."
    role: ClassVar[str] = "rival"

    members: int = 2
    cycles: list[float] = field(default_factory=list)
    image_size: Any = None

    def __post_init__(self) -> None:
        require(self.members > 0, "members", self.members, "must be at least 1")
        for length in self.cycles:
            require(0 < length < inf, "cycles", self.cycles, "must be lengths above 0 and finite")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if the ensemble has fewer members."""
        require(self.members <= members, "members", self.members, f"must be at most ensemble.size={members}")
        require_sizes(self.image_size, architecture)

    def plan(self, prices: Prices) -> list[list[int]]:
        """Return the steps of every member's cycles; see :class:`~ensemble_transfer.transfer.base.Strategy`.

        Cycles after the first have the same length for all members of one image size.
        """
        sizes = sizes_of(self.image_size, prices.image_size, self.members)
        if prices.limit is None:
            totals = [prices.recipes.full.steps] * self.members
        else:
            totals = prices.shares(prices.limit, sizes)
        plan = []
        for total, size in zip(totals, sizes, strict=True):
            least = min(steps for steps, own in zip(totals, sizes, strict=True) if own == size)
            later = [int(least * length / sum(self.cycles) + 1e-9) for length in self.cycles[1:]]
            plan.append([total - sum(later), *later])
        what, price = f"a step of each cycle of members={self.members}", self._least(prices.at(max(sizes)))
        prices.require(min(map(min, plan)) > 0, what, price)
        return plan

    def _least(self, prices: Prices) -> int:
        """Return the price of the shortest fine-tunings that give every cycle a step."""
        lengths = self.cycles or [1.0]
        return self.members * prices.step * ceil(sum(lengths) / min(lengths) - 1e-9)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, sizes = self.plan(bench.prices), sizes_of(self.image_size, bench.prices.image_size, self.members)
        fits = bench.fine_tune_in(range(self.members), [steps[0] for steps in plan], sizes)
        kept = list(fits.weights)
        for cycle, steps in enumerate(zip(*plan, strict=True)):
            if cycle:
                ends = zip(fits.members, kept[-self.members :], strict=True)
                starts = [Start(member, weights, bench.stream("cycle", member, cycle)) for member, weights in ends]
                kept += self._cycle(bench, starts, sizes, steps)
        return bench.result(self.name, kept, fits.members, sizes * (len(kept) // self.members))

    def _cycle(
        self, bench: Workbench, starts: Sequence[Start], sizes: Sequence[int], steps: Sequence[int]
    ) -> list[Weights]:
        """Return the members after one more cycle, each at its own image size and for the steps of that size."""
        done: dict[int, Weights] = {}
        for size in dict.fromkeys(sizes):
            own = [start for start in starts if sizes[start.member] == size]
            recipe = replace(bench.recipes.full, steps=steps[own[0].member])
            fits = bench.at(size).fit(own, recipe, "cycle")
            done |= zip(fits.members, fits.weights, strict=True)
        return [done[start.member] for start in starts]
