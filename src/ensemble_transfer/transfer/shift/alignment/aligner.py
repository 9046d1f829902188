"""Permute vectors and heads from the channel order of a donor to that of each recipient."""

from dataclasses import dataclass, field
from functools import cached_property

from ensemble_transfer.training.cost import measured
from ensemble_transfer.transfer.base import Workbench
from ensemble_transfer.transfer.shift.alignment.channels import channel_groups
from ensemble_transfer.transfer.shift.alignment.matching import match_activations, match_weights
from ensemble_transfer.transfer.shift.alignment.permutations import Group, Permutations, permuted, permuted_head
from ensemble_transfer.weights import Weights

ALIGNMENTS = ("none", "weights", "activations")


@dataclass
class Aligner:
    """Permutes vectors and heads from a donor's channel order to that of other members, and caches permutations.

    Args:
        bench: The workbench. Activations are those of the target's training images.
        method: ``none``, ``weights`` or ``activations``.
        donor: The donor's encoder before its fine-tuning.
    """

    bench: Workbench
    method: str
    donor: Weights
    _found: dict[int, Permutations] = field(default_factory=dict)

    def to_member(self, member: int, encoder: Weights, vector: Weights) -> Weights:
        """Permute a vector to the channel order of a member. Matching is billed once for each member."""
        if self.method == "none":
            return vector
        if member not in self._found:
            self._found[member] = self._match(self.donor, encoder, member)
        return permuted(vector, self._groups, self._found[member])

    def from_member(self, member: int, encoder: Weights, vector: Weights) -> Weights:
        """Permute a vector from the channel order of a member to that of the donor."""
        if self.method == "none":
            return vector
        return permuted(vector, self._groups, self._match(encoder, self.donor, member))

    def head(self, member: int, head: Weights) -> Weights:
        """Permute a head to the channel order of a member that a vector was permuted to before."""
        return head if self.method == "none" else permuted_head(head, self._found[member])

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return channel_groups(self.bench.architecture)

    def _match(self, one: Weights, other: Weights, member: int) -> Permutations:
        images, device = self.bench.target.train.images, self.bench.fitter.settings.device
        encoded = 0 if self.method == "weights" else 2 * len(images)
        self.bench.require_left(self.bench.prices.encode(encoded), "alignment")
        with measured(device) as meter:
            if self.method == "weights":
                found = match_weights(self._groups, one, other, self.bench.stream("alignment", member))
            else:
                found = match_activations(self.bench.architecture, self._groups, one, other, images, device)
        self.bench.bill_encoding("alignment", member, encoded, meter)
        return found
