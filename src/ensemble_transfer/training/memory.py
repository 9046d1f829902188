"""Memory: how many members fit together, and which errors mean that it ran out."""

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

USABLE = 0.8
"""Share of the free memory that a group may take."""

_COPIES = 6
"""Of a member's weights: initial, trained, gradient, two moments of AdamW, result."""


@dataclass(frozen=True)
class Need:
    """The memory that training one member needs, in bytes.

    Attributes:
        weights: What is held during the whole fit: weights, gradients and optimizer state, features, orders.
        graph: What a pass takes on top of that: activations that are kept for the backward pass, and their gradients.
    """

    weights: int
    graph: int

    def members(self, free: int, vectorised: bool) -> int:
        """Return how many members fit into so many free bytes together; at least 1.

        Args:
            free: Bytes that are free.
            vectorised: Whether the graphs of all members are alive together, or one after another.
        """
        budget = USABLE * free
        fit = budget / (self.weights + self.graph) if vectorised else (budget - self.graph) / self.weights
        return max(1, int(fit))


def need_of(module: nn.Module, inputs: Tensor) -> Need:
    """Return the memory that training a member needs, measured on tensors without data.

    Args:
        module: The member.
        inputs: Inputs (examples, ...) of its step; only shape and type matter.
    """
    return Need(_COPIES * state_bytes(module), 2 * graph_bytes(module, inputs) + inputs.numel() * inputs.element_size())


def state_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's weights."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def forward_bytes(module: nn.Module, inputs: Tensor) -> int:
    """Return the most bytes that a forward pass without gradients adds, measured on tensors without data."""
    with torch.device("meta"), torch.no_grad():
        ready, images = deepcopy(module).to("meta").eval(), torch.empty_like(inputs, device="meta")
        added = _Added([images, *ready.parameters(), *ready.buffers()])
        with added:
            ready(images)
    return added.most


class _Added(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Counts the bytes of the tensors that operations return, besides given ones, as long as they live."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            weakref.finalize(storage, self._drop, address, size)
            self._now += size
            self.most = max(self.most, self._now)

    def _drop(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size


def graph_bytes(module: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that a forward pass keeps for its backward pass, measured on tensors without data."""
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        kept.append(tensor)  # so that no other storage gets the same address
        return tensor

    with torch.device("meta"), saved_tensors_hooks(keep, lambda tensor: tensor):
        deepcopy(module).to("meta").train()(torch.empty_like(inputs, device="meta"))
    return sum(sizes.values())


_SIGNS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "bad_alloc",
    "CUDA error: out of memory",
    "_ALLOC_FAILED",  # CUBLAS_STATUS_, CUSOLVER_STATUS_, CUFFT; cuDNN up to version 8
    "ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_, ..._HOST_: cuDNN 9
)
"""In the messages of errors of torch, the system, oneDNN and CUDA's libraries that mean a lack of memory.

Only torch's own allocator raises ``torch.OutOfMemoryError``. The libraries allocate for themselves, and so does the
driver, when it loads a kernel.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a computation failed for lack of memory."""
    by_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    by_message = isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in _SIGNS)
    return by_type or by_message


def released() -> None:
    """Free the memory of dropped tensors, on a GPU also for other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
