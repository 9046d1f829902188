"""Random streams that depend on their purpose alone.

Every random choice is drawn from a seed that is derived from the run's seed and the choice's own address, such as
``derive(seed, "member", 3, "step", 17)``. So a member's result depends neither on other members nor on the order of the
work, and an interrupted fit continues exactly where it stopped, without a saved generator.
"""

import hashlib
from operator import index

import torch


def derive(seed: int, *address: int | str) -> int:
    """Return the seed of the random choice at this address, in [0, 2**63).

    Examples:
        >>> derive(0, "member", 3) == derive(0, "member", 3)
        True
        >>> len({derive(0, "member", 3), derive(1, "member", 3), derive(0, "member", 4), derive(0, "head", 3)})
        4
    """
    parts = (part if isinstance(part, str) else index(part) for part in (seed, *address))  # NumPy's integers too
    text = repr(tuple(parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *address: int | str) -> torch.Generator:
    """Return a CPU generator for the random choice at this address."""
    return torch.Generator().manual_seed(derive(seed, *address))
