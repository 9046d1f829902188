"""Two ways to compute a step of members in lockstep: in a loop, or vectorised as one network.

Both hold the members' trainable weights as module parameters, so that one optimizer serves all members. Vectorised
members are experimental: no GPU has yet shown what they gain.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import Optimizer

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.device import channels_last
from ensemble_transfer.training.loss import Loss
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.weights import Weights

LAUNCH_BOUND = 2e10
"""Operations of a member's step below which a GPU spends its time on launching kernels.

A forward and a backward pass of a small network launch some 500 kernels, which takes about 5 ms whatever their size.
A GPU that sustains 4e12 operations a second on small convolutions does 2e10 in that time. Vectorised members share
the launches. ``scripts/benchmarks/benchmark.py executor`` measures it; the number is still to be confirmed on a GPU.
"""

Differentiate = Callable[[Tensor], object]
"""Adds the gradient of a loss to the weights that it comes from."""

Tensors = dict[str, Tensor]

_COUNTER = "step."
"""Begins the name of AdamW's count of steps: a scalar, equal for all members; on the CPU, but for a fused optimizer."""


class Loop(nn.Module):
    """Members one after another: a forward and a backward each, so that one graph is alive at a time.

    Args:
        members: Their networks.
        loss: Their loss; None for cross-entropy.
        parts: Parts that a batch is passed in, one graph after another.
    """

    fused_on_cpu = False

    def __init__(self, members: Sequence[nn.Module], loss: Loss | None = None, parts: int = 1) -> None:
        super().__init__()
        self.members, self.loss = nn.ModuleList(map(_keeping_inputs, members)), loss or Loss()
        self._parts = parts

    def backward(
        self,
        inputs: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        differentiate: Differentiate = Tensor.backward,
    ) -> tuple[Tensor, Tensor]:
        """Add every member's gradient.

        Args:
            inputs: Inputs (members, batch, ...).
            labels: Labels (members, batch).
            seeds: One seed a member for what is random in its forward pass, such as dropout.
            differentiate: Is given every loss with its graph, or that of every part of a batch by its share.

        Returns:
            The losses (members,) and logits (members, batch, classes), without graphs.
        """
        losses, logits = [], []
        for member, x, y, seed in zip(self.members, inputs, labels, seeds, strict=True):
            seed_generators(seed, x.device)
            outputs, shares = [], []
            for images, wanted in zip(x.chunk(self._parts), y.chunk(self._parts), strict=True):
                out = member(images)
                loss = self.loss(out, wanted)
                loss = loss if len(wanted) == len(y) else loss * self.loss.share(wanted, y)
                differentiate(loss)
                outputs.append(out.detach())
                shares.append(loss.detach())
            losses.append(torch.stack(shares).sum())
            logits.append(torch.cat(outputs))
        return torch.stack(losses), torch.stack(logits)

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

    A network with random layers, such as dropout, is refused: all members would draw from one stream.
    """

    fused_on_cpu = False

    def __init__(self, members: Sequence[nn.Module], loss: Loss | None = None) -> None:
        super().__init__()
        self._size, self.loss = len(members), loss or Loss()
        self._template = [deepcopy(members[0]).to("meta")]  # in a list, so that it is no submodule
        parameters, buffers = stack_module_state(list(members))
        self._parameter_names, self._buffer_names = list(parameters), list(buffers)
        self._stacked = nn.ParameterList(nn.Parameter(p.detach()) for p in parameters.values())
        for index, buffer in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{index}", buffer)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the stacked parameters with the names that they have in a member."""
        yield from zip(self._parameter_names, self._stacked, strict=True)

    def backward(
        self,
        inputs: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        differentiate: Differentiate = Tensor.backward,
    ) -> tuple[Tensor, Tensor]:
        """Add every member's gradient, and return losses and logits; see :meth:`Loop.backward`. Nothing is random."""
        del seeds
        template = self._template[0].train()

        def of_member(parameters: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
            logits: Tensor = functional_call(template, (parameters, buffers), (x,))
            return logits

        logits = vmap(of_member)(dict(self.trained()), self._stacked_buffers(), inputs)
        if self.loss.weight is None:
            losses = vmap(self.loss)(logits, labels)
        else:  # vmap has no rule for torch's weighted loss with smoothing
            losses = torch.stack([*map(self.loss, logits, labels)])
        differentiate(losses.sum())
        return losses.detach(), logits.detach()

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


def _keeping_inputs(network: nn.Module) -> nn.Module:
    """Let activations whose gradient needs their input not overwrite it: torch would copy it first.

    The weights of a fit are the same, bit for bit.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Hardtanh | nn.SiLU | nn.Hardswish | nn.Mish):  # ReLU6 is a Hardtanh; ReLU needs none
            layer.inplace = False
    return network


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


def grouped(
    modules: Sequence[nn.Module], settings: TrainerSettings, loss: Loss | None = None, parts: int = 1
) -> Loop | Vectorised:
    """Return members in the executor that the settings name; ``auto`` must have been decided; see :class:`Loop`."""
    if settings.executor == "vectorised":
        return Vectorised(modules, loss)
    loop = Loop(modules, loss, parts)
    return channels_last(loop) if settings.lays_channels_last else loop


def refuse_unvectorisable(architecture: Architecture) -> None:
    """Raise a SettingError if torch.func cannot train members of an architecture as one network."""
    size, labels = architecture.image_size, torch.zeros(1, 2, dtype=torch.int64)
    images = torch.zeros(1, 2, architecture.channels, size, size, dtype=torch.uint8)
    try:
        with torch.random.fork_rng(devices=[]):
            Vectorised([architecture.build()]).backward(images, labels, [0])
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SettingError("executor", "vectorised", f"cannot train this net ({reason}); use executor=loop") from error
