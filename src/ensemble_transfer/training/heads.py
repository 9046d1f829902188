"""Heads on features, which are softmax regression: the third kind of group, whose gradient is written down.

A step of a small head is some microseconds of arithmetic. Autograd, and an optimizer that updates weight by weight,
take several hundred around it. So the heads of a group are one batched linear layer. On a CPU a group is one head (see
:data:`ALONE`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensemble_transfer.training.executors import Differentiate, Vectorised
from ensemble_transfer.training.loss import Loss

ALONE = frozenset({"cpu"})
"""Types of devices on which heads are trained one after another.

Threads divide a batch of matrices otherwise than one matrix, and so add in another order: with two threads, 184 of 872
products of 2 to 8 heads differed from those of one head (torch 2.13). Alone, a head is the same, bit for bit, whichever
others a phase trains. It takes some 0.1 ms a step; in batches of eight it would take a fifth of that. On a GPU no bits
are promised, and a launch takes longer than its work.
"""


class Heads(Vectorised):
    """Heads of one parameter (members, classes, features + 1): :func:`~ensemble_transfer.training.spec.head_of`."""

    fused_on_cpu = True

    def __init__(self, members: Sequence[nn.Module], loss: Loss | None = None) -> None:
        super().__init__(members, loss)
        [(_, both)] = self.trained()
        classes, smoothing, weight = both.shape[1], self.loss.label_smoothing, self.loss.weight
        targets = torch.eye(classes) * (1 - smoothing) + smoothing / classes
        targets = targets if weight is None else targets * weight
        self.register_buffer("_targets", targets.to(both), persistent=False)

    _targets: Tensor

    @torch.no_grad()
    def backward(
        self,
        inputs: Tensor,
        labels: Tensor,
        seeds: Sequence[int] = (),
        differentiate: Differentiate = Tensor.backward,
    ) -> tuple[Tensor, Tensor]:
        """Leave every head's gradient in the parameter, and return losses and logits; see :meth:`Loop.backward`.

        The gradient of the mean cross-entropy by the logits is (probabilities - targets) / examples: Bishop, Pattern
        Recognition and Machine Learning (2006), equation 4.109. With weights of classes, targets are weighted, and
        their sums weight the probabilities; the mean is over the weights of the labels, as torch's.

        Args:
            inputs: Features (members, batch, features + 1), whose last column is 1.
            labels: Labels (members, batch).
            seeds: Nothing is random.
            differentiate: Nothing is left to do.
        """
        del seeds, differentiate
        both = self._stacked[0]
        targets = self._targets.index_select(0, labels.reshape(-1)).view(*labels.shape, -1)
        log_probabilities = torch.bmm(inputs, both.mT).log_softmax(-1)
        share, by_logits = 1 / labels.shape[1], log_probabilities.exp()
        if self.loss.weight is not None:
            share = 1.0
            targets = targets / self.loss.weight[labels].sum(1)[:, None, None]
            by_logits.mul_(targets.sum(-1, keepdim=True))
        both.grad = torch.baddbmm(both, by_logits.sub_(targets).mT, inputs, beta=0, alpha=share)
        return (targets * log_probabilities).sum((1, 2)) * -share, log_probabilities
