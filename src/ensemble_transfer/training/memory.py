"""How many members fit into memory together, and what an out-of-memory error looks like."""

import gc
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

USABLE = 0.8
"""Share of the free memory that a group may take."""

_COPIES = 6
"""Of a member's weights: initial, trained, gradient, two moments of AdamW, result."""

_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and its parts below ``/sys/fs/cgroup``, of version 2 and version 1."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free: of the GPU, or of the machine and this process's container (cgroup v2, v1)."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [_field(Path("/proc/meminfo"), "MemAvailable:", sys.maxsize // 1024) * 1024]
    for limit, used, parts in (tuple(Path("/sys/fs/cgroup") / name for name in names) for names in _CGROUPS):
        most = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
        if most.isdigit():
            free.append(int(most) - int(used.read_text(encoding="utf-8")) + _field(parts, "inactive_file", 0))
    return max(0, min(free))


@dataclass(frozen=True)
class Need:
    """What training takes, in bytes.

    Attributes:
        weights: A member's weights, gradients and optimizer state, held all along.
        graph: What one forward pass of a step keeps for its backward pass, and the gradients of that.
    """

    weights: int
    graph: int

    def members(self, free: int, stacked: bool) -> int:
        """Return how many members fit into so many free bytes together; at least 1.

        Args:
            free: Bytes that are free.
            stacked: Whether the graphs of all members are alive together, or one after another.
        """
        budget = USABLE * free
        fit = budget / (self.weights + self.graph) if stacked else (budget - self.graph) / self.weights
        return max(1, int(fit))


def need_of(module: nn.Module, inputs: Tensor) -> Need:
    """Return what training a member takes, measured on tensors without data.

    Args:
        module: The member.
        inputs: Inputs (examples, ...) of its step; only shape and type matter.
    """
    weights = _COPIES * sum(t.numel() * t.element_size() for t in module.state_dict().values())
    return Need(weights, 2 * graph_bytes(module, inputs) + inputs.numel() * inputs.element_size())


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was what a computation lacked."""
    by_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return by_type or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def released() -> None:
    """Give back what dropped tensors hold, on a GPU also to other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _field(path: Path, name: str, default: int) -> int:
    """Return a number from a file of lines ``name number ...``."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), default)
