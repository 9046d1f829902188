"""Strict arithmetic on named tensors.

Weights are what ``module.state_dict()`` returns: a mapping from names to tensors. No function changes its input, and
nothing is transferred partially: names, shapes and dtypes must agree, or an error names the tensor.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def subtract(after: Weights, before: Weights) -> dict[str, Tensor]:
    """Return ``after - before`` for every floating-point tensor.

    Integer tensors are left out: they are counters (BatchNorm's ``num_batches_tracked``), whose difference means
    nothing for another network.

    Examples:
        >>> before = {"weight": torch.tensor([1.0, 2.0]), "batches": torch.tensor(7)}
        >>> after = {"weight": torch.tensor([1.5, 2.0]), "batches": torch.tensor(9)}
        >>> subtract(after, before)
        {'weight': tensor([0.5000, 0.0000])}

    Raises:
        ValueError: If the two differ in names, shapes or dtypes.
    """
    _check_match(after, before)
    return {name: after[name] - before[name] for name in after if after[name].is_floating_point()}


def add_scaled(weights: Weights, vector: Weights, scale: float = 1.0) -> dict[str, Tensor]:
    """Return ``weights + scale * vector``; integer tensors, which no vector has, are copied.

    Examples:
        >>> recipient = {"weight": torch.tensor([4.0, 4.0]), "batches": torch.tensor(3)}
        >>> add_scaled(recipient, {"weight": torch.tensor([0.5, 0.0])}, scale=2)
        {'weight': tensor([5., 4.]), 'batches': tensor(3)}

    Raises:
        ValueError: If ``vector`` does not have exactly the floating-point tensors of ``weights``.
    """
    _check_match(floating(weights), vector)
    return {
        name: tensor + scale * vector[name] if tensor.is_floating_point() else tensor.clone()
        for name, tensor in weights.items()
    }


def random_like(vector: Weights, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random vector, a control: each of its tensors has the norm of the same tensor of ``vector``.

    Tensors are drawn in the order of their names, so that the order of the mapping does not matter.
    """
    noise = {
        name: torch.randn(vector[name].shape, generator=generator, dtype=vector[name].dtype) for name in sorted(vector)
    }
    return {name: n * (vector[name].norm() / n.norm().clamp(min=1e-12)) for name, n in noise.items()}


def mean(vectors: Sequence[Weights]) -> dict[str, Tensor]:
    """Return the mean of vectors that have the same names, shapes and dtypes."""
    if not vectors:
        raise ValueError("vectors=[]: the mean needs at least one")
    for vector in vectors[1:]:
        _check_match(vectors[0], vector)
    return {name: torch.stack([vector[name] for vector in vectors]).mean(0) for name in vectors[0]}


def norm(vector: Weights) -> float:
    """Return the Euclidean norm over all tensors together."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in vector.values()))


def mean_distance_and_cosine(all_weights: Sequence[Weights]) -> tuple[float, float]:
    """Return the mean Euclidean distance and the mean cosine over all pairs of vectors; 0 where there is no pair.

    Tensor by tensor each vector meets all later ones at once. Products of matrices would be faster, but their last bits
    depend on where the memory lies.
    """
    first, *others = all_weights
    for other in others:
        _check_match(first, other)
    members = len(all_weights)
    if members < 2:
        return 0.0, 0.0
    squares, dots = (torch.zeros(members, members, dtype=torch.float64) for _ in range(2))
    for name in sorted(first):  # sums depend on their order, and that of a mapping says nothing
        rows = torch.stack([weights[name].flatten() for weights in all_weights]).double()
        for one in range(members):
            squares[one, one:] += (rows[one:] - rows[one]).square().sum(1)
            dots[one, one:] += (rows[one:] * rows[one]).sum(1)
    one, two = torch.triu_indices(members, members, 1)
    lengths = dots.diagonal().sqrt()
    scales = lengths[one] * lengths[two]
    cosines = torch.where(scales > 0, dots[one, two] / scales.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return squares[one, two].sqrt().mean().item(), cosines.mean().item()


def floating(weights: Weights) -> dict[str, Tensor]:
    """Return the floating-point tensors."""
    return {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return the tensors under ``prefix.``, without it: ``below(w, "encoder")`` are the encoder's weights.

    Examples:
        >>> below({"encoder.weight": torch.tensor(1.0), "head.bias": torch.tensor(0.0)}, "encoder")
        {'weight': tensor(1.)}
    """
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}


def joined(**parts: Weights) -> dict[str, Tensor]:
    """Return the parts under their names as prefixes: the inverse of :func:`below`."""
    return {f"{prefix}.{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}


def fingerprint(weights: Weights) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def copied(weights: Weights) -> dict[str, Tensor]:
    """Return a detached copy on the CPU that shares no memory with its original."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}


def _check_match(a: Weights, b: Weights) -> None:
    for name in sorted(a.keys() ^ b.keys()):
        raise ValueError(f"tensor {name!r} is in one of the two sets of weights only")
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ValueError(f"tensor {name!r} has shapes {tuple(tensor.shape)} and {tuple(b[name].shape)}")
        if tensor.dtype != b[name].dtype:
            raise ValueError(f"tensor {name!r} has dtypes {tensor.dtype} and {b[name].dtype}")
