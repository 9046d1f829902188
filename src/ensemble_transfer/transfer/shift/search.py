"""Choose on validation whether to shift at all."""

from collections.abc import Mapping

from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.weights import Weights


def best_probed(bench: Workbench, tried: Mapping[float, Mapping[int, Weights]]) -> float:
    """Return the scale at which new heads on frozen features are most accurate on validation.

    A new head makes the comparison of a shift with no shift fair: an unshifted encoder cannot suit the donor's head.

    Args:
        bench: The workbench, to which the probes and their predictions are billed.
        tried: Encoders by member, for each scale. The first scale wins ties.
    """
    accuracies = {}
    for scale, encoders in tried.items():
        fits = bench.probe(bench.with_fresh_heads(encoders, "tiny"))
        accuracies[scale] = bench.validation_accuracy(fits.weights, "scale search")
    return max(accuracies, key=accuracies.__getitem__)
