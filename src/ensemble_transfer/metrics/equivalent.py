"""The deep ensemble equivalent: the worth of an ensemble, in fully fine-tuned members."""

import math
from collections.abc import Sequence


def deep_ensemble_equivalent(nll: float, reference: Sequence[float]) -> float:
    """Find the size at which the reference ensemble reaches a calibrated NLL (Ashukha 2020).

    min {l >= 1: reference(l) <= nll}, where reference(l) is interpolated linearly between the sizes 1, 2, ....
    ``reference[k - 1]`` is the calibrated NLL of k fully fine-tuned members. An ensemble worse than one of them is
    worth 1, one that is better than all of them infinity.
    """
    if not (len(reference) and all(map(math.isfinite, (nll, *reference)))):
        raise ValueError(f"nll={nll}, reference={reference}: must be finite numbers of nats, at least one of each")
    if reference[0] <= nll:
        return 1.0
    for size in range(1, len(reference)):
        before, after = reference[size - 1], reference[size]
        if after <= nll:
            return size + (before - nll) / (before - after)
    return math.inf


def worth(nll: float, reference: Sequence[float]) -> float | None:
    """Return the worth of an ensemble in fully fine-tuned members, by calibrated NLL.

    It is the :func:`deep_ensemble_equivalent`, at most the size of the reference. There is none below one member, and
    None is returned: an ensemble that is worse than one fully fine-tuned member is not worth a share of it.
    """
    equivalent = deep_ensemble_equivalent(nll, reference)
    return None if nll > reference[0] else min(equivalent, float(len(reference)))
