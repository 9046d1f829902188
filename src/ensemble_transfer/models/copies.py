"""Copies between the host and a device, few and large: what a copy costs hardly depends on its size."""

from collections.abc import Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes between whose multiples tensors start in a block, as in torch's own allocations: kernels read many at once."""

BLOCK = 2**28
"""Bytes of weights that are copied at once, about: for a moment they are in memory twice."""


def in_one_copy(tensors: Sequence[Tensor], device: torch.device, waiting: bool = True) -> list[Tensor]:
    """Return tensors on another device, copied as one block of bytes, whose memory they share there.

    Args:
        tensors: Tensors on one device. Types, shapes and dense layouts, such as channels last, are kept.
        device: Where to.
        waiting: Whether the host waits for the copy. Without, it passes through pinned memory, of which torch keeps as
            much as was needed at once: not for weights.
    """
    places, size = [], 0
    for tensor in tensors:
        end = size + tensor.nbytes
        places.append(slice(size, end))
        size = -(-end // ALIGNMENT) * ALIGNMENT
    pinned = not waiting and device.type == "cuda"
    block = torch.empty(size, dtype=torch.uint8, device=tensors[0].device, pin_memory=pinned)
    torch._foreach_copy_([_seen_as(block[at], t) for at, t in zip(places, tensors, strict=True)], [*tensors])
    there = block.to(device, non_blocking=not waiting)
    return [_seen_as(there[at], tensor) for at, tensor in zip(places, tensors, strict=True)]


def _seen_as(data: Tensor, like: Tensor) -> Tensor:
    """Return bytes as a tensor of the type, shape and layout of another one."""
    strides = torch.empty_like(like, device="meta").stride()
    return data.view(like.dtype).as_strided(like.shape, strides)


@torch.no_grad()
def move(module: nn.Module, device: torch.device) -> None:
    """Move a module's parameters and buffers to a device, in place and in few copies; gradients are dropped."""
    for parameter in module.parameters():
        parameter.grad = None
    every = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}.values()
    moving = [t for t in every if t.device.type != device.type or device.index not in (None, t.device.index)]
    ends = accumulate(tensor.nbytes for tensor in moving)
    for _, block in groupby(zip(moving, ends, strict=True), lambda pair: (pair[1] - 1) // BLOCK):
        tensors = [tensor for tensor, _ in block]
        for tensor, there in zip(tensors, in_one_copy([tensor.data for tensor in tensors], device), strict=True):
            tensor.data = there
