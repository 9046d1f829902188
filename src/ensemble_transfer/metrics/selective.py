"""What is gained by abstaining on the examples the ensemble is least sure of.

Everything starts from the risk curve: risk(k/N) is the share of errors among the k most confident examples.
Examples of equal confidence have no order; the risk is then its expectation over a random order within the
tie.

A threshold is where one stops answering: chosen on labelled examples, for others like them.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from ensemble_transfer.metrics.ties import steady, tie_averaged


def risk_curve(confidence: Tensor, correct: Tensor) -> Tensor:
    """Compute risk(k/N), the expected share of errors among the k most confident, for k = 1..N.

    Args:
        confidence: (N,), larger is surer; ties to 40 bits.
        correct: bool (N,).

    Returns:
        float64 (N,).
    """
    errors = tie_averaged(~correct, by=steady(confidence))
    risk: Tensor = errors.cumsum(0) / torch.arange(1, len(errors) + 1, device=errors.device)
    return risk


def aurc(risk: Tensor) -> Tensor:
    """Compute the area under the risk-coverage curve: mean_k risk(k/N) (Geifman 2018): (N,) -> 0-d."""
    return risk.mean()


def eaurc(risk: Tensor) -> Tensor:
    """Compute the excess over the optimal order: AURC - (err + (1 - err) ln(1 - err)) (Geifman 2018).

    The optimum is the limit of large N; at finite N a perfect order is left with an excess of at most err /
    N.

    Args:
        risk: The risk curve (N,); its last entry is err.

    Returns:
        0-d.
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
    """Answer where the confidence is at least ``value``; and what that did on the examples it was chosen on.

    Attributes:
        value: The threshold.
        examples: How many examples it was chosen on.
        answered: How many of them are answered.
        errors: How many of the answered are wrong.
        bound: Upper confidence bound of the risk, where the threshold was chosen by it.
    """

    value: float
    examples: int
    answered: int
    errors: int
    bound: float | None = None

    @property
    def coverage(self) -> float:
        """Share of the examples that is answered."""
        return self.answered / self.examples

    @property
    def risk(self) -> float:
        """Share of errors among the answered."""
        return self.errors / self.answered


def risk_bound(errors: int, answered: int, level: float) -> float:
    """Compute Clopper and Pearson's upper bound (1934) of an error rate.

    The b that solves P(Binomial(answered, b) <= errors) = level: below it lies the true rate with probability
    1 - level. It is the (1 - level) quantile of Beta(errors + 1, answered - errors).
    """
    return float(betaincinv(errors + 1, answered - errors, 1 - level)) if errors < answered else 1.0


def threshold_at_risk(confidence: Tensor, correct: Tensor, risk: float, level: float = 0.05) -> Threshold | None:
    """Find the threshold of largest coverage whose risk is below a limit with probability 1 - level.

    Selection with guaranteed risk (Geifman & El-Yaniv 2017, algorithm 2, arXiv 1705.08500): a binary search over the
    N examples in order of confidence, whose ceil(log2 N) looks each have :func:`risk_bound` at level / ceil(log2 N),
    so that all bounds hold at once. Returned is the best of the thresholds seen that keep the limit (the paper returns
    the last one seen, which need not). Equal confidences are answered together.

    Args:
        confidence: (N,), larger is surer; ties to 40 bits.
        correct: bool (N,).
        risk: The limit, 0..1.
        level: Probability with which the promise may fail over draws of the examples.

    Returns:
        The threshold, or None where none keeps the limit.
    """
    looks = max(1, math.ceil(math.log2(len(confidence)))) if len(confidence) else 0
    low, high, found = 1, len(confidence), None
    for _ in range(looks):
        middle = (low + high) // 2
        value, answered, errors = _answering(confidence, correct, middle)
        bound = risk_bound(errors, answered, level / looks)
        if bound <= risk:
            low = min(answered + 1, high)
            if found is None or answered > found.answered:
                found = Threshold(value, len(confidence), answered, errors, bound)
        else:
            high = max(middle - 1, low)
    return found


def threshold_at_coverage(confidence: Tensor, correct: Tensor, coverage: float) -> Threshold:
    """Find the highest threshold that answers at least a share of the examples; ties make it more.

    Args:
        confidence: (N,), N >= 1; larger is surer; ties to 40 bits.
        correct: bool (N,).
        coverage: The share, in 0..1; at least one example is answered.
    """
    wanted = max(1, math.ceil(coverage * len(confidence) - 1e-9))
    value, answered, errors = _answering(confidence, correct, wanted)
    return Threshold(value, len(confidence), answered, errors)


def _answering(confidence: Tensor, correct: Tensor, wanted: int) -> tuple[float, int, int]:
    """Return the threshold that answers the ``wanted`` most confident, how many those are with ties, and their errors.

    It lies between the confidences of the last that is answered and the first that is not, at most 1e-6 below the
    former, which the rounding of another batch size or device does not move across it.
    """
    sure = steady(confidence)
    last = sure.sort(descending=True).values[wanted - 1]
    answers = sure >= last
    below = sure[~answers].max() if not answers.all() else last - 1
    value = torch.maximum((last + below) / 2, last - 1e-6).item()
    return value, int(answers.sum()), int((answers & ~correct).sum())


def _coverage(risk: Tensor) -> Tensor:
    return torch.arange(1, len(risk) + 1, dtype=torch.float64, device=risk.device) / len(risk)
