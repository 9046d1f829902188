"""Strategy ``snapshots``: fine-tune one member in cycles, and keep it after each cycle."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import require_sizes
from ensemble_transfer.training.fit import Start
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights


@dataclass(frozen=True)
class Snapshots:
    """Fine-tune the first member in cycles on the target, and keep its weights at the end of each cycle.

    Each cycle continues from the weights of the cycle before, and restarts the learning rate schedule with a new order
    of examples (snapshot ensembles; Huang et al. 2017, arXiv 1704.00109). Without a budget it spends one fine-tuning.

    Attributes:
        first: Length of the first cycle, in fine-tunings.
        cycle: Length of each further cycle, in fine-tunings. All cycles are stretched to use the whole budget.
        members: Maximum number of cycles.
        image_size: Image size of the members, in pixels; None for that of the dataset.
    """

    name: ClassVar[str] = "snapshots"
    about: ClassVar[str] = (
        "Fine-tune one member in cycles and keep it at the end of each: the rival for the price of one."
    )
    role: ClassVar[str] = "rival"

    first: float = 0.4
    cycle: float = 0.2
    members: int = 8
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("first", self.first), ("cycle", self.cycle)):
            require(0 < value < float("inf"), name, value, "must be above 0 and finite")
        require(self.members > 0, "members", self.members, "must be at least 1")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if the members do not suit the image size. One member of the ensemble is enough."""
        require_sizes(self.image_size, architecture, several=False)

    def plan(self, prices: Prices) -> list[int]:
        """Return the steps of every cycle; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        return prices.at(self.image_size).cycles(self.first, self.cycle, self.members)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, bench = self.plan(bench.prices), bench.at(self.image_size)
        [start] = bench.with_fresh_heads(bench.first_encoders(1), "full")
        kept: list[Weights] = []
        for place, steps in enumerate(plan):
            if kept:
                start = Start(place, kept[-1], bench.stream("snapshots", place))
            [weights] = bench.fit(
                [start], replace(bench.recipes.full, steps=steps), "cycle" if kept else "full"
            ).weights
            kept.append(weights)
        return bench.result(self.name, kept, range(1, len(kept)))
