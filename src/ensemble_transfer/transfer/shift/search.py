"""How far to shift, and whether at all: scales chosen on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch

from ensemble_transfer.seeding import generator
from ensemble_transfer.training.cost import Ledger, measured
from ensemble_transfer.training.flops import encode_flops
from ensemble_transfer.training.losses import batch_loss
from ensemble_transfer.transfer.base import Transfer
from ensemble_transfer.transfer.shift.vector import layer_groups, scaled
from ensemble_transfer.weights import Weights, add_scaled, joined

FEWEST = 32
"""Images that are looked at for a candidate, at least: BatchNorm normalises by them."""


@dataclass
class ScaleSearch:
    """A search of scales by the validation loss of a shifted encoder under the donor's head, before any fine-tuning.

    It looks at the first recipient alone, so that what it chooses does not depend on how many there are. The images of
    a candidate are as many as the budget allows: all candidates together cost at most that much, unless that left fewer
    than 32.

    Args:
        work: The transfer.
        encoder: The recipient's encoder before the shift.
        vector: The shift vector, in its coordinates.
        head: The donor's head, likewise.
        budget: Operations that the search may spend.
    """

    work: Transfer
    encoder: Weights
    vector: Weights
    head: Weights
    budget: float

    def __post_init__(self) -> None:
        self._seen = 0
        self._losses: dict[tuple[float, ...], float] = {}
        order = generator(self.work.seed, "scale search")
        self._order = torch.randperm(len(self.work.target.validation), generator=order)

    def run(self, grid: Sequence[float], start: float, by_layer: bool, ledger: Ledger) -> dict[str, float]:
        """Return the best scale of every layer group; the cost goes to the ledger, as the first donor's.

        Args:
            grid: Candidates.
            start: Scale that the others are compared with; it wins ties.
            by_layer: Choose group by group, from the input to the output, instead of one scale for all.
            ledger: Where the cost goes, as phase ``scale search``.
        """
        groups = layer_groups(self.vector)
        candidates = list(dict.fromkeys([start, *grid]))
        rounds = [[group] for group in groups] if by_layer else [groups]
        images = self._images_a_candidate(1 + len(rounds) * (len(candidates) - 1))
        chosen = dict.fromkeys(groups, start)
        with measured(self.work.fitter.settings.device) as meter:
            for changed in rounds:
                trials = [chosen | dict.fromkeys(changed, scale) for scale in candidates]
                chosen = min(trials, key=lambda scales: self._loss(scales, images))
        ledger.extend([self.work.encoding("scale search", 0, self._seen, meter)])
        return chosen

    def _images_a_candidate(self, candidates: int) -> int:
        affordable = self.budget / encode_flops(self.work.architecture) / candidates
        return int(min(len(self.work.target.validation), max(FEWEST, affordable)))

    def _loss(self, scales: Mapping[str, float], images: int) -> float:
        """Return the loss of a candidate; each is looked at once."""
        key = tuple(scales.values())
        if key not in self._losses:
            work, split, examples = self.work, self.work.target.validation, self._order[:images]
            shifted = add_scaled(self.encoder, scaled(self.vector, scales))
            weights = joined(encoder=shifted, head=self.head)
            shown, labels = split.images[examples], split.labels[examples]
            loss, _ = batch_loss(work.architecture, weights, shown, labels, work.fitter.settings.device)
            self._seen += len(examples)
            self._losses[key] = loss if loss == loss else inf
        return self._losses[key]


def best_probed(work: Transfer, tried: Mapping[float, Mapping[int, Weights]], ledger: Ledger) -> float:
    """Return the scale at which new heads on frozen features are the most accurate on validation.

    Unlike the loss under the donor's head, which no unshifted encoder can suit, that compares a shift with none fairly.

    Args:
        work: The transfer.
        tried: Shifted encoders by member, by scale; the first scale wins ties.
        ledger: Where the cost of probes and predictions goes.
    """
    accuracies = {}
    for scale, encoders in tried.items():
        fits = work.probe(work.with_fresh_heads(encoders, "tiny"))
        with measured(work.fitter.settings.device) as meter:
            accuracies[scale] = work.validation_accuracy(fits.weights)
        seen = len(encoders) * len(work.target.validation)
        ledger.extend([*fits.entries(), work.encoding("scale search", 0, seen, meter)])
    return max(accuracies, key=accuracies.__getitem__)
