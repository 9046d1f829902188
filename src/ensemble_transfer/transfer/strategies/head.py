"""Strategy ``head``: train new heads on frozen encoders."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import require_sizes, sizes_of
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights


@dataclass(frozen=True)
class HeadOnly:
    """Freeze the encoders, BatchNorm statistics included, and train new heads on their features.

    Within a budget, as many members get a head as it pays for, from the first on.

    Attributes:
        image_size: Image size of the members, in pixels; several are theirs in turns. None for that of the dataset.
    """

    name: ClassVar[str] = "head"
    about: ClassVar[str] = "Freeze the encoders and train new heads only: the cheapest."
    role: ClassVar[str] = "method"

    image_size: Any = None

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if the members do not suit an image size."""
        require_sizes(self.image_size, architecture)

    def plan(self, prices: Prices) -> int:
        """Return how many members get a head; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        sizes = sizes_of(self.image_size, prices.image_size, prices.members)
        costs = [prices.at(size).head for size in sizes]
        prices.require_limit(costs[0], "one new head")
        return sum(prices.limit is None or spent <= prices.limit for spent in accumulate(costs))

    def run(self, bench: Workbench) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        sizes = sizes_of(self.image_size, bench.prices.image_size, self.plan(bench.prices))
        heads: dict[int, Weights] = {}
        for size in dict.fromkeys(sizes):
            own = bench.at(size)
            encoders = {member: own.encoders[member] for member, of in enumerate(sizes) if of == size}
            fits = own.fit(own.with_fresh_heads(encoders, "head"), bench.recipes.head, "head", heads=True)
            heads |= zip(fits.members, fits.weights, strict=True)
        return bench.result(self.name, [heads[member] for member in sorted(heads)], sorted(heads), sizes)
