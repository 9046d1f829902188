"""Find the permutation that matches a donor's channels to a recipient's (Git Re-Basin).

Ainsworth, Hayase and Srinivasa 2022, arXiv 2209.04836: weight matching (section 3.2) and activation matching (3.1).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ensemble_transfer.models.backbone import Architecture, Classifier
from ensemble_transfer.models.memory_format import to_device
from ensemble_transfer.seeding import generator
from ensemble_transfer.transfer.shift.alignment.permutations import Group, Permutations, check_weights, identity
from ensemble_transfer.weights import Weights, norm

_BATCH = 64


def match_weights(groups: Sequence[Group], donor: Weights, recipient: Weights, seed: int = 0) -> dict[Group, Tensor]:
    """Find permutations that bring the donor's trained tensors close to the recipient's.

    The squared distance is smallest where the inner product is largest. For one group, with all others fixed, this is
    an assignment problem. Groups are solved in random order, starting from the identity, until none improves alone. So
    the result is never farther from the recipient than the unpermuted donor. It costs no encoding.

    Args:
        groups: The encoder's :func:`~ensemble_transfer.transfer.shift.alignment.channels.channel_groups`.
        donor: Weights of the encoder that is permuted.
        recipient: Weights of the encoder that it is matched to.
        seed: Seed of the order of groups.

    Raises:
        ValueError: If the weights are not those of the groups' encoder.
    """
    for weights in (donor, recipient):
        check_weights(weights, groups)
    product = _InnerProduct(groups, donor, recipient)
    result = identity(groups)
    draws = generator(seed, "match weights")
    pending = list(groups)
    while pending:
        group = pending.pop(int(torch.randint(len(pending), (), generator=draws)))
        better = result | {group: _assignment(product.by_channel(group, result))}
        if torch.equal(better[group], result[group]):
            continue
        if product.of(group, better) > product.of(group, result) + product.rounding:
            result = better
            pending += [other for other in product.neighbours(group) if other not in pending]
    return result


def match_activations(
    architecture: Architecture,
    groups: Sequence[Group],
    donor: Weights,
    recipient: Weights,
    images: Tensor,
    device: torch.device | str = "cpu",
) -> dict[Group, Tensor]:
    """Find permutations under which the donor's channels correlate most with the recipient's.

    The activations of a group are the inputs of the layers that read it, head included, at every image and position,
    in evaluation mode. Correlations are summed over these layers. Channels that are constant on the images correlate
    with nothing and are paired arbitrarily. This costs two encodings an image, which the caller bills:
    ``2 * len(images) * training.flops.encode_flops(architecture)``.

    Args:
        architecture: The classifier whose encoder both are.
        groups: Its :func:`~ensemble_transfer.transfer.shift.alignment.channels.channel_groups`.
        donor: Weights of the encoder that is permuted.
        recipient: Weights of the encoder that it is matched to.
        images: Images (examples, channels, height, width), uint8, at least one.
        device: Where to compute.

    Raises:
        ValueError: If the weights are not those of the groups' encoder, or there is no image.
    """
    if not len(images):
        raise ValueError("images has no example: activations need at least one")
    for weights in (donor, recipient):
        check_weights(weights, groups)
    moments: dict[str, _Moments] = {reader: _Moments() for group in groups for reader in _readers(group)}
    ours, theirs = (_classifier(architecture, weights, device) for weights in (donor, recipient))
    seen: defaultdict[str, list[Tensor]] = defaultdict(list)
    for batch in torch.split(images, _BATCH):
        with _listening(ours, moments, lambda reader, value: seen[reader].append(value)):
            ours(batch.to(device))
        with _listening(theirs, moments, lambda reader, value: moments[reader].add(value, seen[reader].pop(0))):
            theirs(batch.to(device))
    return {g: _assignment(sum((moments[r].correlation() for r in _readers(g)), torch.zeros(()))) for g in groups}


class _InnerProduct:
    """The inner product of the recipient's learned tensors and the donor's permuted ones.

    Attributes:
        rounding: A difference that means nothing.
    """

    def __init__(self, groups: Sequence[Group], donor: Weights, recipient: Weights) -> None:
        self._axes: dict[str, dict[int, Group]] = {}
        for group in groups:
            for name, axis, learned in group.axes:
                if learned:
                    self._axes.setdefault(name, {})[axis] = group
        self._donor = {name: donor[name].double().cpu() for name in self._axes}
        self._recipient = {name: recipient[name].double().cpu() for name in self._axes}
        self.rounding = 1e-12 * norm(self._donor) * norm(self._recipient)

    def of(self, group: Group, permutations: Permutations) -> float:
        """Return the part of it that the group's permutation decides."""
        return sum(self._of(name, permutations) for name, axes in self._axes.items() if group in axes.values())

    def neighbours(self, group: Group) -> list[Group]:
        """Return the groups whose best permutation depends on this one's: those that share a tensor with it."""
        own = [(self._axes[name], axis) for name, axis, learned in group.axes if learned]
        return list(dict.fromkeys(other for axes, axis in own for a, other in axes.items() if a != axis))

    def by_channel(self, group: Group, permutations: Permutations) -> Tensor:
        """Return that part for every pair (recipient's channel, donor's channel), all other axes permuted as given.

        Where a tensor has the group on two axes, as a convolution inside an identity branch, this is a linear guess.
        """
        result = torch.zeros(group.size, group.size, dtype=torch.double)
        for name, axis, learned in group.axes:
            if learned:
                others = {a: other for a, other in self._axes[name].items() if a != axis}
                donor = _reordered(self._donor[name], others, permutations)
                result += _rows(self._recipient[name], axis) @ _rows(donor, axis).T
        return result

    def _of(self, name: str, permutations: Permutations) -> float:
        donor = _reordered(self._donor[name], self._axes[name], permutations)
        return float((self._recipient[name] * donor).sum())


def _assignment(similarity: Tensor) -> Tensor:
    """Return for every row its column in the assignment of the greatest sum."""
    return torch.from_numpy(linear_sum_assignment(similarity.cpu().numpy(), maximize=True)[1])


def _reordered(tensor: Tensor, axes: Mapping[int, Group], permutations: Permutations) -> Tensor:
    for axis, group in axes.items():
        tensor = tensor.index_select(axis, permutations[group])
    return tensor


def _rows(tensor: Tensor, axis: int) -> Tensor:
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


class _Moments:
    """Sums over images and positions, for the correlation of two networks' channels."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Take in activations (images and positions, channels)."""
        a, b = ours.double(), theirs.double()
        new = [a.sum(0), b.sum(0), a.square().sum(0), b.square().sum(0), a.T @ b]
        self._sums = [old + more for old, more in zip(self._sums, new, strict=True)] if self._sums else new
        self._count += len(a)

    def correlation(self) -> Tensor:
        """Return the correlation of every pair of channels; 0 where one is constant."""
        mean_a, mean_b, square_a, square_b, product = (total / self._count for total in self._sums)
        variance = (square_a - mean_a**2).clamp(min=0)[:, None] * (square_b - mean_b**2).clamp(min=0)
        return ((product - mean_a[:, None] * mean_b) / variance.sqrt()).nan_to_num(0, 0, 0)


def _readers(group: Group) -> list[str]:
    """Return the convolutions and linear layers whose input the group's channels are."""
    weights = [tensor for tensor, axis, learned in group.axes if learned and axis == 1 and tensor.endswith(".weight")]
    found = [f"encoder.{weight.removesuffix('.weight')}" for weight in weights] + ["head"] * group.features
    if not found:
        raise ValueError(f"tensor {group.axes[0].tensor!r}: no layer reads its channels")
    return found


def _classifier(architecture: Architecture, encoder: Weights, device: torch.device | str) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        classifier = architecture.build()
    classifier.encoder.load_state_dict(dict(encoder), strict=True)
    return to_device(classifier, device)


@contextmanager
def _listening(classifier: Classifier, readers: Iterable[str], listen: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``listen`` with a reader's name and what it reads (images and positions, channels), copied."""

    def hook(reader: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def heard(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].movedim(-1 if isinstance(module, nn.Linear) else 1, -1)
            listen(reader, value.clone(memory_format=torch.contiguous_format).flatten(0, -2))

        return heard

    handles = [classifier.get_submodule(reader).register_forward_pre_hook(hook(reader)) for reader in readers]
    try:
        with torch.inference_mode():
            yield
    finally:
        for handle in handles:
            handle.remove()
