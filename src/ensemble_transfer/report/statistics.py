"""Statistics over a few seeds: spread, paired differences with intervals, and Holm's correction.

All of them describe repeated training on one test set, not other test images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.05
"""Two-sided significance level of intervals (95%) and marks."""


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (NaN for one seed) and number of seeds."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of one or more values."""
        return cls(mean(values), stdev(values) if len(values) > 1 else math.nan, len(values))

    def text(self, digits: int, bound: bool = False) -> str:
        """Return ``mean ± std``, ``≥ mean`` of a lower bound; the mean if nothing varies, a dash if none is known."""
        if math.isnan(self.mean):
            return "-"
        if bound:
            return f"≥ {int(self.mean) if self.mean.is_integer() else f'{self.mean:,.{digits}f}'}"
        spread = f" ± {self.std:,.{digits}f}" if self.std > 0 else ""
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, with its interval and p-value from Student's t.

    Attributes:
        mean: Mean of own minus other, over the shared seeds.
        low: Lower end of the 95% confidence interval; NaN if there is none.
        high: Upper end of the interval.
        p: Two-sided p-value of no difference; NaN if there is none.
        n: Number of shared seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero, without correction for multiple comparisons."""
        return self.p < LEVEL

    def text(self, digits: int) -> str:
        """Return ``+mean [low, high]``; the mean alone if there is no interval."""
        if math.isnan(self.low):
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired_difference(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Compare two rows seed by seed.

    There is no interval for one seed, or if all differences are equal: t divides by their standard deviation, and a few
    equal differences of rounded numbers do not prove certainty.

    Returns:
        Difference; None if the rows share no seed.
    """
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    spread = Spread.of([own[seed] - other[seed] for seed in seeds])
    scale = max(abs(own[seed]) + abs(other[seed]) for seed in seeds)
    if spread.n == 1 or spread.std <= 1e-12 * scale:
        return Difference(spread.mean, math.nan, math.nan, math.nan, spread.n)
    from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats has the same and takes seconds to import

    error = spread.std / math.sqrt(spread.n)
    reach = float(stdtrit(spread.n - 1, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(spread.n - 1, -abs(spread.mean) / error))
    return Difference(spread.mean, spread.mean - reach, spread.mean + reach, p, spread.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm 1979); NaN counts as 1.

    The i-th smallest of m (from 0) is multiplied by m - i, raised to the adjusted value before it, and capped at 1.
    """
    known = [1.0 if math.isnan(p) else p for p in p_values]
    adjusted = [1.0] * len(known)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        least = max(least, min(1.0, (len(known) - rank) * known[index]))
        adjusted[index] = least
    return adjusted


def significantly_best(values: Sequence[Mapping[int, float]], higher_is_better: bool) -> int | None:
    """Return the index of the row that is best and differs significantly from every other; None if there is none.

    The row with the best mean is compared with each other row, paired by seed. The p-values are adjusted by Holm's
    method within this column, and all must be below the level. There is no correction across columns.

    Args:
        values: Values of each row by seed. If a row has none, nothing is marked.
        higher_is_better: Whether the highest mean is the best.
    """
    if len(values) < 2 or not all(values):
        return None
    sign = 1 if higher_is_better else -1
    best = max(range(len(values)), key=lambda index: sign * mean(values[index].values()))
    rivals = [paired_difference(values[best], other) for index, other in enumerate(values) if index != best]
    if any(rival is None or sign * rival.mean <= 0 for rival in rivals):
        return None
    adjusted = holm([rival.p for rival in rivals if rival is not None])
    return best if max(adjusted) < LEVEL else None
