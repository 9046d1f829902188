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
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = allowed
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
