"""Whether fits are the same, bit for bit, and what they send to a logger."""

import torch
from same import equal

from ensemble_transfer.training.fit import Fits


def assert_same(fits: Fits, others: Fits) -> None:
    """Compare the fits of members in weights, curve, key and cost; members may stand in any order."""
    by_member = dict(zip(others.members, others.fitted, strict=True))
    for member, fitted in zip(fits.members, fits.fitted, strict=True):
        other = by_member[member]
        assert fitted.key == other.key
        assert equal(fitted.weights, other.weights)
        assert torch.equal(fitted.curve, other.curve)
        one, two = fitted.cost, other.cost
        assert (one.steps, one.examples, one.flops) == (two.steps, two.examples, two.flops)


class Curves(list):
    """A logger that keeps the points of all curves: phase, member, step and loss."""

    def curve(self, phase, step, losses, also):
        self.extend((phase, member, step, loss) for member, loss in losses.items())
