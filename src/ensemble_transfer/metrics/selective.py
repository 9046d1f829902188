"""What is gained by abstaining on the examples the ensemble is least sure of.

Everything starts from the risk curve: risk(k/N) is the share of errors among the k most confident examples.
Examples of equal confidence have no order; the risk is then its expectation over a random order within the
tie.
"""

import torch
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


def _coverage(risk: Tensor) -> Tensor:
    return torch.arange(1, len(risk) + 1, dtype=torch.float64, device=risk.device) / len(risk)
