"""What a few seeds allow to say: spread, paired differences with their intervals, and Holm's correction.

Everything speaks of seeds on one test set: how the result varies when training is repeated, not how it would vary
on other test images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.05
"""Two-sided level of the intervals (95%) and of the marks."""


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation over seeds (NaN for one seed) and number of seeds."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(mean(values), stdev(values) if len(values) > 1 else math.nan, len(values))

    def text(self, digits: int) -> str:
        """Return ``mean ± std``; the mean alone where nothing varies."""
        spread = f" ± {self.std:,.{digits}f}" if self.std > 0 else ""
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and what Student's t says of it.

    Attributes:
        mean: Of own minus other, over the seeds that both have.
        low: Lower end of the 95% confidence interval; NaN where there is none.
        high: Upper end.
        p: Two-sided p-value against no difference; NaN where there is none.
        n: Number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero, for this one difference looked at alone."""
        return self.p < LEVEL

    def text(self, digits: int) -> str:
        """Return ``+mean [low, high]``; the mean alone where there is no interval."""
        if math.isnan(self.low):
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired_difference(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Compare two rows seed by seed.

    There is no interval for one seed, and none where all differences are equal: t divides by their deviation, and two
    or three equal differences of a rounded number are no proof of certainty.

    Args:
        own: Values by seed.
        other: Values by seed.

    Returns:
        The difference; None if the rows share no seed.
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
    """Return p-values adjusted for being several (Holm 1979), in the order given; NaN counts as 1.

    The i-th smallest of m (from 0) is multiplied by m - i, never to less than a smaller one's, and capped at 1.
    """
    known = [1.0 if math.isnan(p) else p for p in p_values]
    adjusted = [1.0] * len(known)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        least = max(least, min(1.0, (len(known) - rank) * known[index]))
        adjusted[index] = least
    return adjusted


def significantly_best(values: Sequence[Mapping[int, float]], higher_is_better: bool) -> int | None:
    """Return which row is best and differs significantly from every other, or None.

    The best mean is compared with each other row, paired by seed; the p-values are adjusted by Holm's method within
    this one column, and all must be below the level. Columns are not corrected for one another.

    Args:
        values: Of each row, by seed; a row without values cannot be beaten, so that nothing is marked.
        higher_is_better: Whether the best is the highest.
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
