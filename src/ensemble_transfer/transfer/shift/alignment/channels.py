"""Find the groups of channels of an encoder that only a common permutation may reorder.

The classifier is traced to a torch.fx graph of ATen operators by torch.export, without computing anything. Every axis
of every tensor starts with its own label. An operator ties the axes that must keep the same order: a convolution ties
its input's channels to those of its weight, an addition ties the channels of both summands. Operators without a rule
are refused. So no permutation of the groups changes the function.
"""

import json
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.transfer.shift.alignment.permutations import Axis, Group

_PINNED = 0
"""The label of axes that keep their order: examples, positions, colours, classes."""

Labels = tuple[int, ...]


def channel_groups(architecture: Architecture) -> tuple[Group, ...]:
    """Return the groups of channels of an encoder, in the order of its tensors.

    Raises:
        SettingError: If the encoder has an operator that mixes channels in an order of its own, or cannot be traced.
    """
    return _channel_groups(json.dumps(architecture.plain()))


@lru_cache(maxsize=16)
def _channel_groups(description: str) -> tuple[Group, ...]:
    architecture = Architecture.from_plain(json.loads(description))
    program = _exported(architecture)
    tensors = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    tensors = {node: name for node, name in tensors.items() if name in program.state_dict}
    follow = _Follow(tensors)
    for node in program.graph.nodes:
        try:
            follow(node)
        except _Refused as refused:
            rule = f"cannot have its channels permuted: {refused} in {_module(node)}"
            raise SettingError("align", architecture.backbone, rule) from refused
    groups = tuple(_grouped(follow, learned=frozenset(program.graph_signature.parameters)))
    grouped = {axis.tensor for group in groups for axis in group.axes}
    for name, tensor in program.state_dict.items():
        if name.startswith("encoder.") and tensor.numel() > 1 and name.removeprefix("encoder.") not in grouped:
            rule = f"cannot have its channels permuted: those of {name} are tied to an order that is fixed"
            raise SettingError("align", architecture.backbone, rule)
    return groups


def _exported(architecture: Architecture) -> torch.export.ExportedProgram:
    shape = (3, architecture.channels, architecture.image_size, architecture.image_size)
    with torch.device("meta"):
        classifier = architecture.build().eval()
        images = torch.zeros(shape, dtype=torch.uint8)
        try:
            return torch.export.export(classifier, (images,), strict=False)
        except Exception as error:  # a model's code can raise anything on the way
            reason = " ".join(str(error).split())[:200]
            raise SettingError("align", architecture.backbone, f"cannot be traced: {reason}") from error


def _module(node: fx.Node) -> str:
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return [name for name, _ in stack.values()][-1] if stack else "the encoder"


def _grouped(follow: "_Follow", learned: frozenset[str]) -> Iterator[Group]:
    axes: dict[int, list[Axis]] = {}
    sizes: dict[int, int] = {}
    for node, name in follow.named.items():
        for axis, label in enumerate(follow.labels(node)):
            if name.startswith("encoder.") and label != _PINNED:
                axes.setdefault(label, []).append(Axis(name.removeprefix("encoder."), axis, name in learned))
                sizes[label] = _shape(node)[axis]
    features = next(follow.labels(node)[1] for node, name in follow.named.items() if name == "head.weight")
    for label, together in axes.items():
        yield Group(sizes[label], tuple(together), label == features)


class _Refused(Exception):  # noqa: N818  # never leaves this file
    """An operator that no permutation of channels passes through."""


class _Follow:
    """The labels of the axes of every value in a graph.

    Attributes:
        named: The tensors of the classifier's state, by their nodes.
    """

    def __init__(self, tensors: dict[str, str]) -> None:
        self._tensors = tensors
        self._labels: dict[fx.Node, Labels] = {}
        self._parents = [_PINNED]
        self.named: dict[fx.Node, str] = {}

    def __call__(self, node: fx.Node) -> None:
        """Label the axes of a node's value, tying what its operator ties."""
        if node.op == "placeholder" and node.name in self._tensors and node.users:
            self.named[node] = self._tensors[node.name]
            self._labels[node] = tuple(_PINNED if size == 1 else self._new() for size in _shape(node))
        elif node.op == "call_function":
            name = _name(node)
            if name not in _RULES or any(isinstance(argument, fx.Node) for argument in node.kwargs.values()):
                raise _Refused(f"no rule for the operator {name}")
            self._labels[node] = _RULES[name](self, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                self.tie(*self.labels(value), _PINNED)
        else:
            self._labels[node] = (_PINNED,) * len(_shape(node))

    def labels(self, node: fx.Node) -> Labels:
        """Return the labels of a value's axes: equal where they are tied."""
        return tuple(map(self._root, self._labels[node]))

    def tie(self, *labels: int) -> None:
        """Give axes one label, the pinned one if it is among them."""
        roots = sorted(map(self._root, labels))
        for root in roots[1:]:
            self._parents[root] = roots[0]

    def _new(self) -> int:
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            label = self._parents[label]
        return label


def _name(node: fx.Node) -> str:
    """Return an operator's name without its overload and its mark of working in place: ``add`` for ``add_.Tensor``."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0].rstrip("_")


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [argument for argument in node.args if isinstance(argument, fx.Node)]


def _need_pinned(labels: Labels, what: str) -> None:
    if any(label != _PINNED for label in labels):
        raise _Refused(f"{what} over channels")


def _elementwise(follow: _Follow, node: fx.Node) -> Labels:
    """Tie what broadcasting lays over each other."""
    shape = _shape(node)
    result = [_PINNED] * len(shape)
    for axis, size in enumerate(shape):
        back = axis - len(shape)
        over = [v for v in _tensors(node) if len(_shape(v)) >= -back and _shape(v)[back] == size != 1]
        labels = [follow.labels(value)[back] for value in over]
        follow.tie(*labels)
        result[axis] = min(labels, default=_PINNED)
    return tuple(result)


def _convolution(follow: _Follow, node: fx.Node) -> Labels:
    value, weight, *bias = _tensors(node)
    examples, channels, *positions = follow.labels(value)
    outputs, inputs, *kernel = follow.labels(weight)
    _need_pinned((examples, *positions), "a convolution")
    groups = _shape(value)[1] // _shape(weight)[1]
    if groups == 1:
        follow.tie(channels, inputs)
    elif groups == _shape(value)[1] == _shape(weight)[0]:
        follow.tie(channels, outputs)
    else:
        raise _Refused(f"a convolution in {groups} groups")
    follow.tie(outputs, *(follow.labels(b)[0] for b in bias))
    follow.tie(*kernel, _PINNED)
    return (_PINNED, outputs, *positions)


def _linear(follow: _Follow, node: fx.Node) -> Labels:
    value, weight, *bias = _tensors(node)
    outputs, inputs = follow.labels(weight)
    follow.tie(follow.labels(value)[-1], inputs)
    follow.tie(outputs, *(follow.labels(b)[0] for b in bias))
    return (*follow.labels(value)[:-1], outputs)


def _batch_norm(follow: _Follow, node: fx.Node) -> Labels:
    value, *each = _tensors(node)
    follow.tie(follow.labels(value)[1], *(follow.labels(tensor)[0] for tensor in each))
    return follow.labels(value)


def _layer_norm(follow: _Follow, node: fx.Node) -> Labels:
    value, *each = _tensors(node)
    if len(_arguments(node)[1]) != 1:
        raise _Refused("a layer_norm over several axes")
    follow.tie(follow.labels(value)[-1], *(follow.labels(tensor)[0] for tensor in each))
    return follow.labels(value)


def _pool(follow: _Follow, node: fx.Node) -> Labels:
    examples, channels, *positions = follow.labels(_tensors(node)[0])
    _need_pinned((examples, *positions), "pooling")
    return (examples, channels, *positions)


def _pad(follow: _Follow, node: fx.Node) -> Labels:
    labels, arguments = follow.labels(_tensors(node)[0]), _arguments(node)
    _need_pinned(labels[len(labels) - len(arguments[1]) // 2 :], "padding")
    return labels


def _mean(follow: _Follow, node: fx.Node) -> Labels:
    labels, arguments = follow.labels(_tensors(node)[0]), _arguments(node)
    axes = arguments[1] if len(arguments) > 1 and arguments[1] is not None else range(len(labels))
    gone = {axis % len(labels) for axis in axes}
    if len(_shape(node)) == len(labels):
        return tuple(_PINNED if axis in gone else label for axis, label in enumerate(labels))
    return tuple(label for axis, label in enumerate(labels) if axis not in gone)


def _permute(follow: _Follow, node: fx.Node) -> Labels:
    labels = follow.labels(_tensors(node)[0])
    return tuple(labels[axis] for axis in _arguments(node)[1])


def _reshape(follow: _Follow, node: fx.Node) -> Labels:
    """Carry an axis that stays whole; channels that are split, or merged with others, are refused."""
    value = _tensors(node)[0]
    old, new = _shape(value), _shape(node)
    result = [_PINNED] * len(new)
    for before, after in _matching(old, new):
        labels = tuple(follow.labels(value)[axis] for axis in before)
        if len(before) == len(after) == 1:
            result[after[0]] = labels[0]
        else:
            _need_pinned(labels, "a reshape")
    return tuple(result)


def _matching(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the smallest runs of axes, those of size 1 left out, that hold the same numbers in both shapes."""
    left, right = ([axis for axis, size in enumerate(shape) if size != 1] for shape in (old, new))
    while left:
        before, after = [left.pop(0)], [right.pop(0)]
        while (have := math.prod(old[a] for a in before)) != (want := math.prod(new[a] for a in after)):
            (before if have < want else after).append((left if have < want else right).pop(0))
        yield before, after


def _arguments(node: fx.Node) -> Any:  # noqa: ANN401
    return node.args


_ONE_BY_ONE = (
    "add sub mul div relu hardtanh clamp leaky_relu elu gelu silu mish sigmoid hardsigmoid hardswish tanh dropout"
)
_RULES: dict[str, Callable[[_Follow, fx.Node], Labels]] = {
    **dict.fromkeys(_ONE_BY_ONE.split(), _elementwise),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"), _pool),
    "pad": _pad,
    "mean": _mean,
    "permute": _permute,
    **dict.fromkeys(("reshape", "view", "flatten", "squeeze", "unsqueeze"), _reshape),
}
"""How an operator's result is labelled. Dropout treats all channels alike, but draws its mask by position."""
