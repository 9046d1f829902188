"""Random draws of each member in a vectorised forward pass.

In the loop a member's dropout draws from torch's default generator, seeded for that member and step. Here the same
functions are called on tensors of one member's shape, in the same order, with the default generator in that member's
state: so the masks are the loop's, bit for bit on the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SCALING = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Functions that multiply their input by a random mask, called (input, p, training, inplace)."""

Draw = Callable[[Tensor], Tensor]


class Streams:
    """One stream of random numbers a member, each an own state of torch's default generator.

    Args:
        seeds: One seed a member.
        device: Where the numbers are drawn.

    Attributes:
        used: Whether anything was drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._generator = torch.cuda.default_generators[device.index or 0] if on_gpu else torch.default_generator
        self._states = [self._generator.manual_seed(seed).get_state() for seed in seeds]
        self.used = False

    def draw(self, draw: Draw, like: Tensor) -> Tensor:
        """Return the draws (members, ...) of all members, each on an empty tensor like this one."""
        self.used = True
        drawn = []
        for member, state in enumerate(self._states):
            self._generator.set_state(state)
            drawn.append(draw(torch.empty_like(like, memory_format=torch.contiguous_format)))
            self._states[member] = self._generator.get_state()
        return torch.stack(drawn)


class MembersDraws(TorchFunctionMode):
    """While it is active, dropout and ``bernoulli_`` under one vmap over members draw from the members' streams.

    What else is random stays as it is, and vmap refuses it.
    """

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # what any function of torch returns
        del types
        kwargs = kwargs or {}
        if func in _SCALING:
            return self._scaled(func, *args, **kwargs)
        if func is Tensor.bernoulli_:
            return self._drawn(args[0], lambda empty: func(empty, *args[1:], **kwargs))
        return func(*args, **kwargs)

    def _scaled(
        self, func: Callable[..., Tensor], x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        del inplace
        if not training or p == 0:
            return x
        return x * self._drawn(x.detach(), lambda empty: func(empty.fill_(1.0), p, True))

    def _drawn(self, like: Tensor, draw: Draw) -> Tensor:
        drawn: Tensor = _Drawn.apply(like, self._streams, draw)  # type: ignore[no-untyped-call]
        return drawn


class _Drawn(torch.autograd.Function):
    """Draws for all members at once: the rule for vmap runs below it, where random functions may be called."""

    @staticmethod
    def forward(_like: Tensor, _streams: Streams, _draw: Draw) -> Tensor:
        """Refuse: a tensor that is the same for all members says nothing about their number."""
        raise RuntimeError("draws on a tensor that does not depend on the member")

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Keep nothing: a draw has no gradient."""

    @staticmethod
    def vmap(_info: object, in_dims: tuple[int, ...], like: Tensor, streams: Streams, draw: Draw) -> tuple[Tensor, int]:
        """Return the draws of all members for the tensor of all of them."""
        return streams.draw(draw, like.select(in_dims[0], 0)), 0
