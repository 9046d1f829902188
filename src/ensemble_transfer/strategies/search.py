"""How far to shift: scales chosen on validation, for the whole encoder or layer group by layer group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from ensemble_transfer.cost import Ledger, measured
from ensemble_transfer.seeding import generator
from ensemble_transfer.strategies.shift_vector import layer_groups, scaled
from ensemble_transfer.strategies.transfer import Transfer
from ensemble_transfer.training.flops import encode_flops
from ensemble_transfer.training.losses import batch_loss
from ensemble_transfer.weights import Weights, add_scaled, joined

SEARCHED = 4
"""Recipients that a search looks at, at most."""

FEWEST = 32
"""Images that each of them sees of a candidate, at least: BatchNorm normalises by them."""


@dataclass
class ScaleSearch:
    """A search of scales by the validation loss of shifted encoders under the donor's head, before any fine-tuning.

    The images of a candidate are dealt out to up to four recipients, and are as many as the budget allows: all
    candidates together cost at most that much, unless that left a recipient with fewer than 32 images.

    Args:
        work: The transfer.
        recipients: Of each recipient to look at: encoder before the shift, vector and donor's head, the latter two in
            its coordinates.
        budget: Operations that the search may spend.
    """

    work: Transfer
    recipients: Sequence[tuple[Weights, Weights, Weights]]
    budget: float

    def __post_init__(self) -> None:
        self._seen = 0
        self._losses: dict[tuple[float, ...], float] = {}
        order = generator(self.work.seed, "scale search")
        self._order = torch.randperm(len(self.work.target.validation), generator=order)

    def run(self, grid: Sequence[float], start: float, by_layer: bool, ledger: Ledger) -> dict[str, float]:
        """Return the best scale of every layer group; the cost goes to the ledger, shared by the recipients.

        Args:
            grid: Candidates.
            start: Scale that the others are compared with; it wins ties.
            by_layer: Choose group by group, from the input to the output, instead of one scale for all.
            ledger: Where the cost goes, as phase ``scale search``.
        """
        groups = layer_groups(self.recipients[0][1])
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
        """Return the mean loss over recipients, each on images of its own; candidates are looked at once."""
        key = tuple(scales.values())
        if key not in self._losses:
            looked_at = self.recipients[: max(1, min(SEARCHED, images // FEWEST))]
            parts = self._order[:images].tensor_split(len(looked_at))
            losses = [self._loss_of(*pair, scales, part) for pair, part in zip(looked_at, parts, strict=True)]
            mean = sum(losses) / len(losses)
            self._losses[key] = mean if mean == mean else inf
        return self._losses[key]

    def _loss_of(
        self, encoder: Weights, vector: Weights, head: Weights, scales: Mapping[str, float], examples: Tensor
    ) -> float:
        work, split = self.work, self.work.target.validation
        weights = joined(encoder=add_scaled(encoder, scaled(vector, scales)), head=head)
        self._seen += len(examples)
        images, labels = split.images[examples], split.labels[examples]
        return batch_loss(work.architecture, weights, images, labels, work.fitter.settings.device)[0]
