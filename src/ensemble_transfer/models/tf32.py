"""TF32: products of float32 numbers on a GPU's tensor cores, which round them to 10 bits after the point first.

That is three decimal digits, for several times the speed. Torch by itself does so in convolutions, and not in matrix
products. A CPU has no TF32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and matrix products of the block, or forbid it in both."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    _set(allowed, "high" if allowed else "highest")
    try:
        yield
    finally:
        _set(*before)


def _set(convolutions: bool, products: str) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
