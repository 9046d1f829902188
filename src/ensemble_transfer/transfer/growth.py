"""Grow an ensemble of pretrained networks within a budget, by whole schedules.

Their rate is tuned, so no pilots are trained: every network that is trained is a candidate member. What decides is how
the budget is divided among pixels, steps and members. ``benchmarks/frontier/AUTO.md`` says what was tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.sizes import require_size
from ensemble_transfer.training.loss import class_weights
from ensemble_transfer.transfer.choice import Candidate, choose, differ, joined_candidates
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import Weights

FEWEST_IMAGES = 20
"""Validation images, below which nothing can be chosen."""

SETTLED = 0.75
"""Share of a fit after which its training loss counts."""

STARVED = 0.5
"""Training loss as a share of that on validation, from which a member lacks steps rather than labels."""


SEEN = 10
"""Times that a member sees every training image; then further steps bring little, and another member brings more."""

ENOUGH = 0.4
"""Steps, as a share of those of ``recipe.full``, from which a larger image size pays, however many labels there are."""


@dataclass(frozen=True)
class GrowthPlan:
    """What may be trained.

    Attributes:
        sizes: Image sizes of members, the largest first; with one there is nothing to choose.
        members: Number of members, which share the budget.
    """

    sizes: tuple[int, ...]
    members: int

    @classmethod
    def of(cls, prices: Prices, asked: Sequence[int]) -> "GrowthPlan":
        """Plan the largest images that the budget pays enough steps of, and as many members as have enough.

        For the size two fifths of the steps of ``recipe.full`` are enough, and for a member all of them; for either, as
        many as show it every image ten times. Where no size is small enough, one member has the smallest. No member has
        less than a fine-tuning, unless it is alone.

        Args:
            prices: Prices and budget.
            asked: Image sizes to take from. Empty: that of the dataset, three quarters and half of it, and so on, down
                to that of the recipe.

        Raises:
            SettingError: If the budget does not pay for a step of each member, or validation images are too few.
        """
        sizes = tuple(sorted({*asked}, reverse=True)) or _smaller(prices)
        fed = [size for size in sizes if _trained(prices.at(size), ENOUGH)] or [sizes[-1]]
        members = max(1, min(prices.members, int(prices.budget or 0), _trained(prices.at(fed[0]), 1)))
        plan = cls(tuple(fed) if members > 1 else (fed[0],), members)
        if plan.looks:
            rule = f"must be at least {FEWEST_IMAGES} for auto, which chooses on them"
            require(prices.validation >= FEWEST_IMAGES, "validation", prices.validation, rule)
        first = prices.at(plan.sizes[0])
        prices.require_limit(members * (first.step + plan.looks * first.look), "a step of fine-tuning")
        return plan

    @property
    def looks(self) -> bool:
        """Whether every member is looked at on validation."""
        return len(self.sizes) > 1


@dataclass(frozen=True)
class Grown:
    """A member that was trained.

    Attributes:
        size: Image size, in pixels.
        steps: Steps of its fit.
        weights: Its weights.
        training: Mean training loss over its last quarter, in nats.
        probabilities: Predictions for the validation images: (1, examples, classes); None where nothing is chosen.
        class_weights: Weights of the classes (classes,) in the training loss; None for the same.
    """

    size: int
    steps: int
    weights: Weights = field(repr=False)
    training: float
    probabilities: Tensor | None = field(repr=False)
    class_weights: Tensor | None = field(default=None, repr=False)


def grow(bench: Workbench, plan: GrowthPlan) -> list[Grown]:
    """Train the members of a plan one after another; each has an equal share of the budget."""
    labels, grown = bench.target.validation.labels, list[Grown]()
    weights = class_weights(bench.recipes.full, bench.target.train.labels, len(bench.target.classes))
    for member in range(plan.members):
        at_size = bench.at(next_size(grown, plan.sizes, labels))
        prices = at_size.prices
        share = int(bench.left) // (plan.members - member) - plan.looks * prices.look
        steps = share // prices.step
        [fitted] = at_size.fine_tune_in([member], [steps]).fitted
        training = float(fitted.curve[fitted.curve[:, 0] >= SETTLED * fitted.curve[-1, 0], 1].mean())
        seen = at_size.look([fitted.weights]) if plan.looks else None
        grown.append(Grown(prices.architecture.image_size, steps, fitted.weights, training, seen, weights))
    return grown


def next_size(grown: Sequence[Grown], sizes: Sequence[int], labels: Tensor) -> int:
    """Return the image size of the next member, given those that were trained.

    The first has the largest. While the newest lacks steps, which its training loss shows, the next has the size below,
    which gets more steps for the same price. Else it has the size whose members are best on validation.
    """
    if not grown or len(sizes) == 1:
        return sizes[0]
    by_size, newest = candidates(grown), grown[-1].size
    smaller = [size for size in sizes if size < min(by_size)]
    if smaller and newest == min(by_size) and is_starved(grown[-1], labels):
        return smaller[0]
    return min(by_size, key=lambda size: by_size[size].nll(labels))


def is_starved(member: Grown, labels: Tensor) -> bool:
    """Return whether a member lacks steps rather than labels: its training loss is near that on validation.

    Classes count in both as they do in training.
    """
    losses, weights = candidates([member])[member.size].losses(labels), member.class_weights
    each = torch.ones_like(losses) if weights is None else weights[labels].to(losses)
    return member.training >= STARVED * float((each * losses).sum() / each.sum())


def candidates(grown: Sequence[Grown]) -> dict[int, Candidate]:
    """Return the members of each image size as a candidate, by size, in the order in which they were trained."""
    found: dict[int, Candidate] = {}
    for size in dict.fromkeys(member.size for member in grown):
        own = [member for member in grown if member.size == size]
        seen = torch.cat([member.probabilities for member in own if member.probabilities is not None])
        found[size] = Candidate(f"{len(own)} at {size} pixels", [member.weights for member in own], seen)
    return found


def with_mixture(found: Sequence[Candidate], labels: Tensor) -> list[Candidate]:
    """Return candidates, and the mixture of all that are not clearly worse than the best."""
    best = min(found, key=lambda candidate: candidate.nll(labels))
    near = [candidate for candidate in found if candidate is best or not differ(candidate, best, labels)]
    if len(near) == 1:
        return [*found]
    return [*found, joined_candidates(" and ".join(candidate.name for candidate in near), *near)]


def chosen(grown: Sequence[Grown], labels: Tensor) -> tuple[list[Grown], list[dict[str, Any]]]:
    """Return the members that are best on validation, of one size or of several, and the scores of all candidates."""
    if grown[0].probabilities is None:
        return list(grown), []
    best, scores = choose(with_mixture([*candidates(grown).values()], labels), labels)
    taken = {id(weights) for weights in best.members}
    return [member for member in grown if id(member.weights) in taken], scores


def told(grown: Sequence[Grown], labels: Tensor) -> list[dict[str, Any]]:
    """Return plain data about the members, for the record."""
    return [
        {"image_size": own.size, "steps": own.steps, "training": own.training}
        | ({} if own.probabilities is None else {"starved": is_starved(own, labels)})
        for own in grown
    ]


def _trained(prices: Prices, share: float) -> int:
    """Return how many members the budget trains for a share of ``recipe.full``, or until they have seen enough."""
    full, examples = prices.recipes.full, prices.examples
    assert prices.limit is not None, "auto needs a budget"
    epoch = ceil(examples / full.batch_size)
    return prices.limit // (prices.step * min(ceil(share * full.steps), SEEN * epoch))


def _smaller(prices: Prices) -> tuple[int, ...]:
    """Return the image size of the dataset, three quarters and half of it, and so on: those that suit the network."""
    whole, least = prices.image_size, prices.recipes.image_size or prices.image_size
    ladder = [whole]
    while ladder[-1] // 2 >= least:
        ladder += [ladder[-1] * 3 // 4, ladder[-1] // 2]
    return tuple(size for size in ladder if size == whole or _suits(prices, size))


def _suits(prices: Prices, size: int) -> bool:
    try:
        require_size(prices.architecture, size)
    except SettingError:
        return False
    return True
