"""Calibration: calibration errors, the reliability diagram and temperature scaling.

Probabilities are (N, C), labels (N,). Equal-width bins are [0, 1/15), ..., [14/15, 1], the last one closed,
on confidences rounded to float32 (so that 0.6 and 0.6 - 1e-16 share a bin). Means are taken in float64.
"""

import math
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from ensemble_transfer.metrics.predictive import blocks, confidence, correctness, log_probability, of_each, room
from ensemble_transfer.metrics.ties import steady, tie_averaged

BINS = 15
TEMPERATURE_BOUNDS = (0.05, 100.0)
"""Where a temperature is looked for. Labels that have nothing to do with the predictions have it near infinity."""

PSEUDO_OBSERVATIONS = 0.1
"""Weight of what is known before any label is seen, in examples; see :func:`fit_temperature`."""

_BELOW_ONE = 1 - 2.0**-53


def ece(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the expected calibration error: sum_b n_b / N |accuracy_b - confidence_b| (Guo 2017).

    Top-label confidence in 15 equal-width bins. Equals torchmetrics' ``multiclass_calibration_error`` unless
    a confidence falls on the edge of a bin. (N, C), (N,) -> 0-d, in 0..1.
    """
    return _calibration_error(confidence(probabilities), correctness(probabilities, labels), "l1")


def mce(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the maximum calibration error, max_b |accuracy_b - confidence_b| in the bins of :func:`ece`."""
    return _calibration_error(confidence(probabilities), correctness(probabilities, labels), "max")


def ece_classwise(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the classwise ECE: mean_c sum_b n_bc / N |frequency_bc - mean p_bc| (Kull 2019).

    The examples are binned anew for each class c by p_c, whether or not c is the top label; classes that
    occur in no label count too. (N, C), (N,) -> 0-d, in 0..1.
    """
    errors = [_calibration_error(p, labels == c, "l1") for c, p in enumerate(probabilities.double().unbind(1))]
    return torch.stack(errors).mean()


def ece_adaptive(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the ECE over 15 bins of equal mass (Nixon 2019), on top-label confidence.

    The examples are sorted by confidence and divided into 15 bins whose sizes differ by at most one. The larger bins
    have the lower confidences, as ``numpy.array_split`` divides a rising order. Where a tie is divided, each side
    gets the tie's mean accuracy, so the order of the examples does not matter. With N < 15 every example is
    its own bin. (N, C), (N,) -> 0-d, in 0..1.
    """
    sure = steady(confidence(probabilities))
    right = tie_averaged(correctness(probabilities, labels), by=sure)
    gap = (sure.sort(descending=True).values - right).flip(0)
    return torch.stack([part.sum().abs() for part in gap.tensor_split(BINS)]).sum() / len(gap)


def reliability(probabilities: Tensor, labels: Tensor) -> dict[str, list[float | None]]:
    """Compute the reliability diagram over the bins of :func:`ece`: (N, C), (N,).

    Returns:
        By bin: ``lower`` and ``upper`` edge, ``count`` of examples, mean ``confidence``, ``accuracy``; None for the
        latter two in an empty bin.
    """
    sure = _binnable(confidence(probabilities))
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=sure.device)
    bin_of = torch.bucketize(sure, edges[1:-1], right=True)
    count = torch.bincount(bin_of, minlength=BINS)
    right = correctness(probabilities, labels).double()
    diagram: dict[str, list[float | None]] = {
        "lower": [edge / BINS for edge in range(BINS)],
        "upper": [(edge + 1) / BINS for edge in range(BINS)],
        "count": count.tolist(),
    }
    for name, values in (("confidence", sure), ("accuracy", right)):
        means = torch.bincount(bin_of, weights=values, minlength=BINS) / count
        diagram[name] = [None if math.isnan(mean) else mean for mean in means.tolist()]
    return diagram


def apply_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Scale the log-probabilities: softmax(log p / T) (Guo 2017): (N, C) -> (N, C)."""
    scaled = room(probabilities, *probabilities.shape)
    for rows in blocks(probabilities):
        scaled[rows] = (log_probability(probabilities[rows]) / temperature).softmax(dim=1)
    return scaled


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """Find the temperature that minimises the NLL of :func:`apply_temperature` with a weak prior.

    Without a prior, examples without an error have their minimum at T = 0, where one error elsewhere costs without
    limit. So a tenth of a further example, ``PSEUDO_OBSERVATIONS``, is spread over the given ones and evenly over all
    classes, as Platt smooths his targets (1999, "Probabilistic outputs for support vector machines", 2.2), with less
    weight. With q_n = softmax(log p_n / T), the minimum is that of

        sum_n -log q_n[y_n]  +  0.1 mean_n mean_c -log q_n[c].

    Of N examples without an error and with one confidence, a share of nearly 0.1 / N is then taken to be wrong. The
    prior's influence vanishes as 1 / N. Sharpening all predictions multiplies T and changes nothing else, which is not
    so with a prior of T itself, and the objective is convex in 1 / T, as the NLL is. SciPy's bounded minimiser (Brent
    1973) searches in log T.

    Args:
        probabilities: (N, C); N may be 0.
        labels: (N,).

    Returns:
        The temperature, in ``TEMPERATURE_BOUNDS``; 1 for uniform predictions, and for no examples.
    """
    order = _order(probabilities, labels)  # or rounding would give another order another temperature
    labels, log_p = labels[order], room(probabilities, *probabilities.shape)
    for rows in blocks(probabilities):
        log_p[rows] = log_probability(probabilities[order[rows]])
        log_p[rows] -= log_p[rows].amax(dim=1, keepdim=True)
    if not log_p.any():
        return 1.0
    prior = PSEUDO_OBSERVATIONS / len(labels)
    labelled = (log_p.gather(1, labels[:, None]).mean() + prior * log_p.mean()).item()

    def objective(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        partition = of_each(lambda part: (inverse * part).exp_().sum(dim=1), log_p)
        return (1 + prior) * partition.log().mean().item() - inverse * labelled

    bounds = [math.log(bound) for bound in TEMPERATURE_BOUNDS]
    found = minimize_scalar(objective, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x)


def cross_calibrate(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Scale each half of the examples with the temperature fitted on the other half (Ashukha 2020).

    The halves depend on the examples' values and not on their order, in which they are dealt out in turn.

    Returns:
        The scaled probabilities (N, C), and the geometric mean over the examples of their temperatures.
    """
    order = _order(probabilities, labels)
    one, other = order[0::2], order[1::2]
    scaled = torch.empty_like(probabilities, dtype=torch.float64)
    log_temperature = 0.0
    for fitted, applied in ((one, other), (other, one)):
        temperature = fit_temperature(probabilities[fitted], labels[fitted])
        scaled[applied] = apply_temperature(probabilities[applied], temperature)
        log_temperature += math.log(temperature) * len(applied) / len(labels)
    return scaled, math.exp(log_temperature)


def _order(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Order the examples by a fixed random projection of (p, y), in which only equal examples tie."""
    weights = torch.randn(2, probabilities.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for_probability, for_label = weights.to(probabilities.device)
    order: Tensor = (probabilities.double() @ for_probability + for_label[labels]).argsort()
    return order


def _calibration_error(sure: Tensor, happened: Tensor, norm: Literal["l1", "max"]) -> Tensor:
    return binary_calibration_error(_binnable(sure), happened.long(), BINS, norm, validate_args=False)


def _binnable(sure: Tensor) -> Tensor:
    """Prepare confidences for equal-width bins.

    A 1 would get a sixteenth bin of its own in torchmetrics (its issue 3510), so it goes just below.
    """
    return sure.float().double().clamp(max=_BELOW_ONE)
