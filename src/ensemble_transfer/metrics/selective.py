"""Selective prediction: abstain on the examples that the ensemble is least confident about.

The metrics are read from the risk curve: risk(k/N) is the share of errors among the k most confident examples.
Examples of equal confidence have no order. Within a tie, the risk is its expectation over a random order.

A threshold divides examples that are answered from those that are not. It is chosen on labelled examples, for others
from the same distribution.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import bdtr, betaincinv
from torch import Tensor

from ensemble_transfer.metrics.ties import steady, tie_averaged

STEPS = 64
"""Candidates of :func:`threshold_at_risk` for each doubling of 1 - threshold."""


def risk_curve(confidence: Tensor, correct: Tensor) -> Tensor:
    """Compute risk(k/N), the expected share of errors among the k most confident, for k = 1..N.

    Confidence (N,), ties to 40 bits; correct bool (N,) -> float64 (N,).
    """
    errors = tie_averaged(~correct, by=steady(confidence))
    risk: Tensor = errors.cumsum(0) / torch.arange(1, len(errors) + 1, device=errors.device)
    return risk


def aurc(risk: Tensor) -> Tensor:
    """Compute the area under the risk-coverage curve: mean_k risk(k/N) (Geifman 2018): (N,) -> 0-d."""
    return risk.mean()


def eaurc(risk: Tensor) -> Tensor:
    """Compute the excess over the optimal order: AURC - (err + (1 - err) ln(1 - err)) (Geifman 2018).

    The optimum is the limit of large N; at finite N a perfect order is left with an excess of at most err / N. The
    last entry of the risk curve is err: (N,) -> 0-d.
    """
    error = risk[-1]
    optimum: Tensor = error + torch.special.xlogy(1 - error, 1 - error)
    return aurc(risk) - optimum


def augrc(risk: Tensor) -> Tensor:
    """Compute the area under the generalised risk: mean_k (k/N) risk(k/N) (Traub 2024): (N,) -> 0-d."""
    return (_coverage(risk) * risk).mean()


def coverage_at_risk(risk: Tensor, limit: float) -> Tensor:
    """Find the largest coverage k/N with risk(k/N) <= limit, 0 if there is none: (N,) -> 0-d."""
    allowed = _coverage(risk)[risk <= limit + 1e-12]
    return allowed.max() if len(allowed) else risk.new_zeros(())


def risk_at_coverage(risk: Tensor, percent: int) -> Tensor:
    """Read the risk at the smallest coverage k/N of at least ``percent`` / 100: (N,) -> 0-d."""
    k = -(-percent * len(risk) // 100)
    return risk[max(k, 1) - 1]


@dataclass(frozen=True)
class Threshold:
    """A threshold of the confidence, and its result on the examples that it was chosen on.

    Attributes:
        value: Examples of at least this confidence are answered.
        examples: Number of examples that it was chosen on.
        answered: Number of them that are answered.
        errors: Number of wrong answers.
        bound: Upper confidence bound of the risk; None where the threshold was not chosen by one.
    """

    value: float
    examples: int
    answered: int
    errors: int
    bound: float | None = None

    @property
    def coverage(self) -> float:
        """Share of the examples that are answered."""
        return self.answered / self.examples

    @property
    def risk(self) -> float:
        """Share of errors among the answers."""
        return self.errors / self.answered


def risk_bound(errors: int, answered: int, level: float) -> float:
    """Compute Clopper and Pearson's upper bound (1934) of an error rate.

    The bound b solves P(Binomial(answered, b) <= errors) = level. The true rate is below it with probability 1 - level.
    It is the (1 - level) quantile of Beta(errors + 1, answered - errors).
    """
    return float(betaincinv(errors + 1, answered - errors, 1 - level)) if errors < answered else 1.0


def interval(right: int, examples: int) -> tuple[float, float]:
    """Compute Clopper and Pearson's 95% interval (1934) of a share, such as the accuracy on other images."""
    return 1 - risk_bound(examples - right, examples, 0.025), risk_bound(right, examples, 0.025)


def threshold_at_risk(confidence: Tensor, correct: Tensor, risk: float, level: float = 0.05) -> Threshold | None:
    """Find the threshold of largest coverage whose risk is below a limit with probability 1 - level.

    The candidates are fixed before any example is seen: 1 - risk * 2**x for x in steps of 1/64, and 0, which answers
    everything. For a fixed threshold the errors among the answered are binomial, so that "at most this many errors"
    has an exact p-value (Clopper & Pearson 1934). All candidates are tested, from the highest threshold down, by the
    fallback procedure (Wiens 2003): ``level`` is divided evenly among some starting points; a rejected hypothesis
    hands its level on to the next candidate, and after one that is not rejected only the starting points ahead count.
    So every returned threshold keeps the limit, with probability 1 - level for all of them at once, whatever the
    shape of the risk (Angelopoulos et al. 2021, arXiv 2110.01052, on the use of such procedures for risk control).

    Args:
        confidence: (N,), calibrated probabilities in 0..1: the starting points suit these, the promise holds for any.
        correct: bool (N,).
        risk: The limit, above 0 and below 1.
        level: Probability with which the promise may fail over draws of the examples.

    Returns:
        The threshold, or None where none keeps the limit.
    """
    values, starts = _candidates(risk)
    ascending = confidence.double().sort()
    errors_from = torch.cat([(~correct[ascending.indices]).long().flip(0).cumsum(0).flip(0), torch.zeros(1).long()])
    begin = torch.searchsorted(ascending.values, torch.tensor(values, dtype=torch.float64))
    counts = zip(values, (len(confidence) - begin).tolist(), errors_from[begin].tolist(), strict=True)
    found, carried = None, 0.0
    for place, (value, answered, errors) in enumerate(counts):
        carried += level / len(starts) if place in starts else 0.0
        if answered and carried > 0 and bdtr(errors, answered, risk) <= carried:
            bound = min(risk, risk_bound(errors, answered, carried))
            found = Threshold(value, len(confidence), answered, errors, bound)
        else:
            carried = 0.0
    return found


def fewest_examples(risk: float, level: float = 0.05) -> int:
    """Return the least number of examples, all answered and right, on which :func:`threshold_at_risk` finds one."""
    return math.ceil(math.log(level / len(_candidates(risk)[1])) / math.log1p(-risk))


def _candidates(risk: float) -> tuple[list[float], set[int]]:
    """Return the fixed thresholds, from the highest down, and the places of those that have a share of the level.

    A calibrated confidence keeps the limit at 1 - risk and above; others from risk / 64 on, or everywhere.
    """
    starts = [x * STEPS for x in (-6, -1, 0, 1) if risk * 2**x < 1]
    last = math.ceil(-math.log2(risk) * STEPS - 1e-9)  # here the threshold would be 0 or less
    values = [1 - risk * 2 ** (step / STEPS) for step in range(starts[0], last)] + [0.0]
    return values, {start - starts[0] for start in starts} | {len(values) - 1}


def threshold_at_coverage(confidence: Tensor, correct: Tensor, coverage: float) -> Threshold:
    """Find the highest threshold that answers at least a share of the examples; ties make it more.

    It lies between the confidences of the last example that is answered and the first that is not, at most 1e-6 below
    the former: the rounding of another batch size or device does not move an example across it.

    Args:
        confidence: (N,), N >= 1; larger is more confident; ties to 40 bits.
        correct: bool (N,).
        coverage: The share, in 0..1; at least one example is answered.
    """
    sure, wanted = steady(confidence), max(1, math.ceil(coverage * len(confidence) - 1e-9))
    last = sure.sort(descending=True).values[wanted - 1]
    answers = sure >= last
    below = sure[~answers].max() if not answers.all() else last - 1
    value = torch.maximum((last + below) / 2, last - 1e-6).item()
    return Threshold(value, len(sure), int(answers.sum()), int((answers & ~correct).sum()))


def _coverage(risk: Tensor) -> Tensor:
    return torch.arange(1, len(risk) + 1, dtype=torch.float64, device=risk.device) / len(risk)
