"""Whether to shift at all, chosen on validation."""

from collections.abc import Mapping

from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.weights import Weights


def best_probed(work: Workbench, tried: Mapping[float, Mapping[int, Weights]]) -> float:
    """Return the scale at which new heads on frozen features are the most accurate on validation.

    Unlike the loss under the donor's head, which no unshifted encoder can suit, that compares a shift with none fairly.

    Args:
        work: The workbench, which pays for the probes and for their predictions.
        tried: Shifted encoders by member, by scale; the first scale wins ties.
    """
    accuracies = {}
    for scale, encoders in tried.items():
        fits = work.probe(work.with_fresh_heads(encoders, "tiny"))
        accuracies[scale] = work.validation_accuracy(fits.weights, "scale search")
    return max(accuracies, key=accuracies.__getitem__)
