"""Fits of heads on features: softmax regression by a loop of its own, which is no Lightning fit.

A step of a small head is some microseconds of arithmetic. Lightning, autograd and an optimizer that updates weight by
weight take several hundred around it. So the heads of a group are one batched linear layer, whose gradient is written
down. On a CPU a group is one head (see :data:`ALONE`).
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ensemble_transfer.errors import require_uninterrupted
from ensemble_transfer.training.batches import FeatureBatches
from ensemble_transfer.training.cost import measured
from ensemble_transfer.training.executors import Vectorised
from ensemble_transfer.training.lockstep import is_on_curve, joined, require_finite, split_curve, states_of
from ensemble_transfer.training.progress import Progressed, Report, Tracker, member_names
from ensemble_transfer.training.recipe import Recipe, optimizer_of
from ensemble_transfer.training.run import Group, GroupFit
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.store import Store, Unfinished

ALONE = frozenset({"cpu"})
"""Types of devices on which heads are trained one after another.

Threads divide a batch of matrices otherwise than one matrix, and so add in another order: with two threads, 184 of 872
products of 2 to 8 heads differed from those of one head (torch 2.13). Alone, a head is the same, bit for bit, whichever
others a phase trains. It takes some 0.1 ms a step; in batches of eight it would take a fifth of that. On a GPU no bits
are promised, and a launch takes longer than its work.
"""


class Heads(Vectorised):
    """Heads as one batched linear layer, with the gradient of softmax regression written down.

    The gradient of the mean cross-entropy by the logits is (probabilities - targets) / examples: Bishop, Pattern
    Recognition and Machine Learning (2006), equation 4.109.

    Args:
        members: Modules of :class:`~ensemble_transfer.training.trained_part.HeadOnFeatures`, with one parameter each.
        smoothing: Label smoothing.
    """

    targets: Tensor

    def __init__(self, members: Sequence[nn.Module], smoothing: float) -> None:
        super().__init__(members)
        [(_, parameter)] = self.trained()
        classes = parameter.shape[1]
        targets = torch.eye(classes) * (1 - smoothing) + smoothing / classes
        self.register_buffer("targets", targets, persistent=False)

    def slopes(self, inputs: Tensor, labels: Tensor, with_losses: bool) -> Tensor | None:
        """Leave every head's gradient in the parameter; return the losses (members,) if they are wanted.

        Args:
            inputs: Features (members, batch, features + 1); the last is 1.
            labels: Labels (members, batch).
            with_losses: Whether the losses are wanted.
        """
        [(_, parameter)] = self.trained()
        targets = self.targets.index_select(0, labels.reshape(-1)).view(*labels.shape, -1)
        log_probabilities = torch.bmm(inputs, parameter.mT).log_softmax(-1)
        share = 1 / labels.shape[1]
        by_logits = log_probabilities.exp().sub_(targets)
        parameter.grad = torch.baddbmm(parameter, by_logits.mT, inputs, beta=0, alpha=share)
        return (targets * log_probabilities).sum((1, 2)) * -share if with_losses else None


def run_heads(
    group: Group,
    settings: TrainerSettings,
    store: Store | None = None,
    tracker: Tracker | None = None,
    report: Report | None = None,
) -> GroupFit:
    """Train heads in lockstep, in float32, and return their weights; see :func:`~.run.run_group`.

    Args:
        group: The heads, and how to train them.
        settings: Says the device, and how often checkpoints are written. Its callbacks are not called.
        store: Where checkpoints are written; None for none.
        tracker: Where learning curves are sent while they grow.
        report: Receives the progress, at every point of the curves; None for nobody.
    """
    assert isinstance(group.batches, FeatureBatches)
    batches, recipe, label = (
        group.batches.on(settings.device),
        group.recipe,
        f"{group.phase}, {member_names(group.members)}",
    )
    fit = _HeadsFit(group.modules, recipe, settings.device, group.interrupted)
    with measured(settings.device) as meter, torch.no_grad():
        kept = time.monotonic()
        while fit.step < recipe.steps:
            losses = fit.advance(*batches[fit.step])
            if losses is not None:
                if tracker is not None:
                    tracker.curve(group.phase, fit.step - 1, dict(zip(group.members, losses, strict=True)))
                if report is not None:
                    report(Progressed(label, fit.step, recipe.steps, sum(losses) / len(losses)))
            if store is not None and group.keys and time.monotonic() - kept >= settings.checkpoint_seconds:
                for key, state in zip(group.keys, fit.states(), strict=True):
                    store.put_unfinished(key, state)
                kept = time.monotonic()
    meter.seconds += fit.before[0]
    meter.cpu_seconds += fit.before[1]
    weights = [{name: t.cpu().contiguous() for name, t in state.items()} for state in fit.heads.state_dicts()]
    return GroupFit(weights, fit.step, split_curve(fit.curve, len(group.members)), meter)


class _HeadsFit:
    """The state of a fit of heads: weights, optimizer, step, curve, and time spent."""

    def __init__(
        self, modules: Sequence[nn.Module], recipe: Recipe, device: torch.device, interrupted: Sequence[Unfinished]
    ) -> None:
        for module, state in zip(modules, interrupted, strict=False):
            module.load_state_dict(dict(state.weights), strict=True)
        self.heads, self._recipe = Heads(modules, recipe.label_smoothing).to(device), recipe
        self._optimizer: Optimizer = optimizer_of(recipe, self.heads.trained(), fused=device.type == "cpu")
        if interrupted:
            self.heads.restore(self._optimizer, [state.optimizer for state in interrupted])
        [self._options] = self._optimizer.param_groups
        self._rate = self._options["lr"]
        self.step = interrupted[0].step if interrupted else 0
        self.curve = joined([state.curve for state in interrupted])
        self.before = sum(state.seconds for state in interrupted), sum(state.cpu_seconds for state in interrupted)
        self._started = time.perf_counter(), time.process_time()

    def advance(self, inputs: Tensor, labels: Tensor) -> list[float] | None:
        """Take a step, and return the losses of the heads before it if they are a point of the curve.

        Raises:
            DivergedError: If one of these losses is not finite.
        """
        require_uninterrupted()
        on_curve = is_on_curve(self.step, self._recipe.steps)
        found = self.heads.slopes(inputs, labels, with_losses=on_curve)
        if self._recipe.clip is not None:
            self.heads.clip(self._recipe.clip)
        self._options["lr"] = self._rate * self._recipe.rate(self.step)
        self._optimizer.step()
        losses: list[float] | None = None
        if found is not None:
            [losses] = require_finite([found], self.step)
            self.curve.append((self.step, losses))
        self.step += 1
        return losses

    def states(self) -> list[Unfinished]:
        """Return every head's state after the last step."""
        seconds = self.before[0] + time.perf_counter() - self._started[0]
        cpu_seconds = self.before[1] + time.process_time() - self._started[1]
        return states_of(self.heads, self._optimizer, self.curve, self.step, (seconds, cpu_seconds))
