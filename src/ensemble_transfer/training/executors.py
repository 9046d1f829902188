"""Two ways to compute a step of members in lockstep: in a loop, or vectorised as one network.

Both hold the members' trainable weights as module parameters, so that one optimizer serves all members. Vectorised
members, with the draws that make them those of the loop, are experimental: no GPU has yet shown what they gain.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import channels_last
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.weights import Weights

_SCALING = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Functions that multiply their input by a random mask, called (input, p, training, inplace)."""

Draw = Callable[[Tensor], Tensor]
DrawAll = Callable[[Draw, Tensor], Tensor]


class MembersDraws(TorchFunctionMode):
    """While it is active, dropout and ``bernoulli_`` under one vmap over members draw from streams of the members.

    A stream is an own state of the default generator of torch on a device. What else is random stays as it is, and vmap
    refuses it.

    Attributes:
        used: Whether anything was drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        super().__init__()
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
        drawn: Tensor = _Drawn.apply(like, self.draw, draw)  # type: ignore[no-untyped-call]
        return drawn


class _Drawn(torch.autograd.Function):
    """Draws for all members at once: the rule for vmap runs below it, where random functions may be called."""

    @staticmethod
    def forward(_like: Tensor, _of_all: DrawAll, _draw: Draw) -> Tensor:
        """Refuse: a tensor that is the same for all members says nothing about their number."""
        raise RuntimeError("draws on a tensor that does not depend on the member")

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Keep nothing: a draw has no gradient."""

    @staticmethod
    def vmap(_info: object, in_dims: tuple[int, ...], like: Tensor, of_all: DrawAll, draw: Draw) -> tuple[Tensor, int]:
        """Return the draws of all members for the tensor of all of them."""
        return of_all(draw, like.select(in_dims[0], 0)), 0


LAUNCH_BOUND = 2e10
"""Operations of a member's step below which a GPU spends its time on launching kernels.

A forward and a backward pass of a small network launch some 500 kernels, which takes about 5 ms whatever their size.
A GPU that sustains 4e12 operations a second on small convolutions does 2e10 in that time. Vectorised members share
the launches. ``scripts/benchmarks/benchmark.py executor`` measures it; the number is still to be confirmed on a GPU.
"""

_COUNTER = "step."
"""Begins the name of AdamW's count of steps: a scalar, equal for all members; on the CPU, but for a fused optimizer."""


class Loop(nn.Module):
    """Members one after another: a forward and a backward each, so that one graph is alive at a time."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def backward(self, inputs: Tensor, labels: Tensor, seeds: Sequence[int], smoothing: float) -> Tensor:
        """Add every member's gradient and return the losses (members,).

        Args:
            inputs: Inputs (members, batch, ...).
            labels: Labels (members, batch).
            seeds: One seed a member for what is random in its forward pass, such as dropout.
            smoothing: Label smoothing.
        """
        losses = []
        for member, x, y, seed in zip(self.members, inputs, labels, seeds, strict=True):
            seed_generators(seed, x.device)
            loss: Tensor = cross_entropy(member(x), y, label_smoothing=smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trained parameters with the names that they have in a member."""
        for member in self.members:
            yield from member.named_parameters()

    def clip(self, highest: float) -> None:
        """Scale every member's gradient to at most this norm."""
        for member in self.members:
            nn.utils.clip_grad_norm_(member.parameters(), highest)

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Return every member's weights."""
        return [member.state_dict() for member in self.members]

    def optimizer_states(self, optimizer: Optimizer) -> list[dict[str, Tensor]]:
        """Return the optimizer's tensors for every member, named ``slot.parameter``."""
        return [_state_of(optimizer, member.named_parameters()) for member in self.members]

    def restore(self, optimizer: Optimizer, states: Sequence[Weights]) -> None:
        """Give the optimizer what :meth:`optimizer_states` returned, of any executor."""
        for member, state in zip(self.members, states, strict=True):
            _restore(optimizer, member.named_parameters(), state)


class Vectorised(nn.Module):
    """Members as one network whose weights have a leading dimension of members, by torch.func.

    Dropout and drop path draw from each member's own stream, as in the loop.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self._size = len(members)
        self._template = [deepcopy(members[0]).to("meta")]  # in a list, so that it is no submodule
        parameters, buffers = stack_module_state(list(members))
        self._parameter_names, self._buffer_names = list(parameters), list(buffers)
        self._stacked = nn.ParameterList(nn.Parameter(p.detach()) for p in parameters.values())
        for index, buffer in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{index}", buffer)
        self._draws = True  # until a step shows that nothing is random

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the stacked parameters with the names that they have in a member."""
        yield from zip(self._parameter_names, self._stacked, strict=True)

    def backward(self, inputs: Tensor, labels: Tensor, seeds: Sequence[int], smoothing: float) -> Tensor:
        """Add every member's gradient and return the losses (members,); see :meth:`Loop.backward`."""
        losses = self.losses(inputs, labels, seeds, smoothing)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def losses(self, inputs: Tensor, labels: Tensor, seeds: Sequence[int], smoothing: float) -> Tensor:
        """Return the losses (members,), with a graph."""
        template = self._template[0].train()

        def loss_of_member(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(template, (parameters, buffers), (x,))
            return cross_entropy(logits, y, label_smoothing=smoothing)

        draws = MembersDraws(seeds, inputs.device) if self._draws else None
        with draws or nullcontext():
            losses: Tensor = vmap(loss_of_member)(dict(self.trained()), self._stacked_buffers(), inputs, labels)
        self._draws = draws is not None and draws.used
        return losses

    def clip(self, highest: float) -> None:
        """Scale every member's gradient to at most this norm."""
        gradients = [p.grad for p in self._stacked if p.grad is not None]
        norms = torch.stack([g.reshape(self._size, -1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (highest / (norms + 1e-6)).clamp(max=1.0)  # the same 1e-6 as torch's clip_grad_norm_
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Return every member's weights."""
        stacked = dict(self.trained()) | self._stacked_buffers()
        names = list(self._template[0].state_dict())
        return [{name: stacked[name].detach()[index] for name in names} for index in range(self._size)]

    def optimizer_states(self, optimizer: Optimizer) -> list[dict[str, Tensor]]:
        """Return the optimizer's tensors for every member; see :meth:`Loop.optimizer_states`."""
        stacked = _state_of(optimizer, self.trained())
        return [
            {name: value if name.startswith(_COUNTER) else value[member] for name, value in stacked.items()}
            for member in range(self._size)
        ]

    def restore(self, optimizer: Optimizer, states: Sequence[Weights]) -> None:
        """Give the optimizer what :meth:`optimizer_states` returned, of any executor."""
        stacked = {
            name: first if name.startswith(_COUNTER) else torch.stack([state[name] for state in states])
            for name, first in states[0].items()
        }
        _restore(optimizer, self.trained(), stacked)

    def _stacked_buffers(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"buffer_{i}") for i, name in enumerate(self._buffer_names)}


def _state_of(optimizer: Optimizer, trained: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Return what an optimizer keeps about parameters, such as their mean gradients, named ``slot.parameter``."""
    slots = [(name, optimizer.state[parameter]) for name, parameter in trained]
    return {f"{slot}.{name}": value for name, own in slots for slot, value in own.items() if value is not None}


def _restore(optimizer: Optimizer, trained: Iterable[tuple[str, nn.Parameter]], state: Weights) -> None:
    """Give an optimizer what it kept about parameters, on the device and in the layout that it works with."""
    parameters = dict(trained)
    for name, value in state.items():
        slot, _, of_parameter = name.partition(".")
        parameter = parameters[of_parameter]
        if name.startswith(_COUNTER):
            there = value.to(parameter.device if optimizer.defaults["fused"] else "cpu", copy=True)
        else:
            there = torch.empty_like(parameter).detach().copy_(value)
        optimizer.state[parameter][slot] = there


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's default generators, of the CPU and of a device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def chosen_executor(settings: TrainerSettings, members: int, step_flops: int) -> str:
    """Return ``loop`` or ``vectorised``: what the settings ask for, or what ``auto`` means.

    On a CPU, ``auto`` is the loop. Vectorised members can be faster there (0.57 of the loop's time for 8 members on
    images of 8 pixels, 0.91 on 28 pixels; 1.18 for 4 members), but the last bits of their weights depend on how many
    are trained together: batched kernels add in another order. In the loop they do not, so a member that is added
    later, resumed, or trained in another process is the same, bit for bit. On a GPU no bits are promised, and
    ``auto`` vectorises two or more members whose steps are too small to fill it.
    """
    if settings.executor != "auto":
        return settings.executor
    small = members > 1 and step_flops < LAUNCH_BOUND
    return "vectorised" if settings.device.type == "cuda" and small and not settings.channels_last else "loop"


def grouped(modules: Sequence[nn.Module], settings: TrainerSettings) -> Loop | Vectorised:
    """Return members in the executor that the settings name; ``auto`` must have been decided."""
    if settings.executor == "vectorised":
        return Vectorised(modules)
    loop = Loop(modules)
    return channels_last(loop) if settings.lays_channels_last else loop


def refuse_unvectorisable(architecture: Architecture) -> None:
    """Raise a SettingError if torch.func cannot train members of an architecture as one network."""
    size, labels = architecture.image_size, torch.zeros(1, 2, dtype=torch.int64)
    images = torch.zeros(1, 2, architecture.channels, size, size, dtype=torch.uint8)
    try:
        with torch.random.fork_rng(devices=[]):
            Vectorised([architecture.build()]).losses(images, labels, [0], 0.0)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SettingError("executor", "vectorised", f"cannot train this net ({reason}); use executor=loop") from error
