"""The loop that trains heads on features, which are softmax regression.

A step of a small head is some microseconds of arithmetic. Lightning, autograd and an optimizer that updates weight by
weight take several hundred around it. So the heads of a group are one batched linear layer, whose gradient is written
down. On a CPU a group is one head (see :data:`ALONE`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensemble_transfer.errors import require_uninterrupted
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.course import Course, Watch, require_finite
from ensemble_transfer.training.executors import Vectorised
from ensemble_transfer.training.recipe import Recipe, optimizer_of
from ensemble_transfer.training.store import Unfinished

ALONE = frozenset({"cpu"})
"""Types of devices on which heads are trained one after another.

Threads divide a batch of matrices otherwise than one matrix, and so add in another order: with two threads, 184 of 872
products of 2 to 8 heads differed from those of one head (torch 2.13). Alone, a head is the same, bit for bit, whichever
others a phase trains. It takes some 0.1 ms a step; in batches of eight it would take a fifth of that. On a GPU no bits
are promised, and a launch takes longer than its work.
"""


class Heads(Course):
    """Trains heads together, in float32, with the gradient of softmax regression written down.

    The gradient of the mean cross-entropy by the logits is (probabilities - targets) / examples: Bishop, Pattern
    Recognition and Machine Learning (2006), equation 4.109.

    Args:
        modules: Modules of heads (see :class:`~ensemble_transfer.training.spec.FitSpec`), with one parameter each.
        batches: Features (members, batch, features + 1), whose last column is 1, and labels (members, batch).
        recipe: Optimizer, schedule and number of steps.
        device: Where they are trained.
        interrupted: The heads' states at a step that they have all reached; empty for fits that start.
        watch: Is told of every point of the curve; None for nobody.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        batches: Batches,
        recipe: Recipe,
        device: torch.device,
        interrupted: Sequence[Unfinished] = (),
        watch: Watch | None = None,
    ) -> None:
        self.group = Vectorised(modules).to(device)
        self.begin(recipe, interrupted)
        self.optimizer = optimizer_of(recipe, self.group.trained(), fused=device.type == "cpu")
        if interrupted:
            self.group.restore(self.optimizer, [state.optimizer for state in interrupted])
        [(_, self._parameter)] = self.group.trained()
        self._batches, self._watch = batches.on(device), watch
        classes, smoothing = self._parameter.shape[1], recipe.label_smoothing
        self._targets = (torch.eye(classes) * (1 - smoothing) + smoothing / classes).to(self._parameter)

    @torch.no_grad()
    def train(self) -> None:
        """Take the steps that are left.

        Raises:
            DivergedError: If a loss at a point of the curve is not finite.
        """
        [options] = self.optimizer.param_groups
        highest = options["lr"]
        if self._watch is not None:
            self._watch.begin(self)
        while self.step < self.recipe.steps:
            require_uninterrupted()
            is_point = self.is_on_curve
            losses = self.slopes(*self._batches[self.step], with_losses=is_point)
            if self.recipe.clip is not None:
                self.group.clip(self.recipe.clip)
            options["lr"] = highest * self.recipe.rate(self.step)
            self.optimizer.step()
            if losses is not None:
                self.curve.append((self.step, require_finite([losses], self.step)[0]))
            self.step += 1
            if is_point and self._watch is not None:
                self._watch.stepped(self)

    def slopes(self, inputs: Tensor, labels: Tensor, with_losses: bool) -> Tensor | None:
        """Leave every head's gradient in the parameter; return the losses (members,) if they are wanted."""
        targets = self._targets.index_select(0, labels.reshape(-1)).view(*labels.shape, -1)
        log_probabilities = torch.bmm(inputs, self._parameter.mT).log_softmax(-1)
        share = 1 / labels.shape[1]
        by_logits = log_probabilities.exp().sub_(targets)
        self._parameter.grad = torch.baddbmm(self._parameter, by_logits.mT, inputs, beta=0, alpha=share)
        return (targets * log_probabilities).sum((1, 2)) * -share if with_losses else None
