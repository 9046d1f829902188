"""Alignment: permute a network's channels to match another network (Ainsworth et al. 2022, arXiv 2209.04836)."""

from ensemble_transfer.transfer.shift.alignment.channels import channel_groups
from ensemble_transfer.transfer.shift.alignment.matching import match_activations, match_weights
from ensemble_transfer.transfer.shift.alignment.permutations import Axis, Group, Permutations, permuted, permuted_head

__all__ = [
    "Axis",
    "Group",
    "Permutations",
    "channel_groups",
    "match_activations",
    "match_weights",
    "permuted",
    "permuted_head",
]
