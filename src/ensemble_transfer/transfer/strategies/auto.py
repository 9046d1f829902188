"""Strategy ``auto``: chooses learning rate, members and heads within a budget, and pays for choosing out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any, ClassVar

from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.training.cost import Cost, Entry
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.choice import Candidate, choose, joined_candidates
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights

HEADS = 0.05
"""Share of the budget that heads alone may take; one is trained in any case."""

PILOT, PILOTS = 1 / 16, 3
"""Length of a pilot as a share of a fine-tuning, or of the budget where that is less, and pilots at the most."""

FEWEST_STEPS = 10
"""Steps below which a pilot says nothing about its learning rate, and there is none."""

SETTLED = 0.75
"""Share of a pilot after which its training loss counts."""

NEAR = 0.8
"""Share of the fastest pilot's progress that a pilot with a rate that is taken has made."""

EPOCHS, FEW, MANY = 7, 2, 8
"""Epochs that a member gets at least where there are more than ``FEW`` members; there are at most ``MANY``."""

DEAR = 0.1
"""Share of the budget above which a head is too dear, and one member is fine-tuned with all of it."""

FEWEST_IMAGES = 20
"""Validation images, below which nothing can be chosen."""


@dataclass(frozen=True)
class AutoPlan:
    """How ``auto`` begins.

    Attributes:
        heads: Members that get a head alone; 0 to fine-tune one member with the whole budget, and choose nothing.
        pilot: Steps of a pilot; 0 for none.
    """

    heads: int
    pilot: int


@dataclass(frozen=True)
class Pilot:
    """A short fine-tuning that shows how fast a learning rate learns.

    Attributes:
        lr: Learning rate of ``recipe.full``.
        training: Mean training loss over its last quarter, in nats; None if it diverged.
        progress: How far that is below the loss of guessing, in nats; 0 if it is not below.
    """

    lr: float
    training: float | None
    progress: float


@dataclass(frozen=True)
class Auto:
    """Choose learning rates by training loss, and heads, fine-tuned members or both by validation.

    1. Train heads alone, for as many members as a twentieth of the budget pays for.
    2. Fine-tune the first member for a sixteenth of a fine-tuning, or of the budget, with the learning rate of
       ``recipe.full``, and with one ``factor`` times as high: the pilots. If one of them has made less than four fifths
       of the other's progress, a third goes further in the better direction. The rates that have made at least four
       fifths of the fastest's progress are taken. This looks at training loss alone, which is steady where validation
       images are few.
    3. Split what is left evenly among two members; among more, up to eight, if each of them sees every image seven
       times. Fine-tune them fully, with the rates that were taken in turns, which also makes members differ more.
    4. Take heads, fine-tuned members or both, whichever has the lowest calibrated NLL on validation.

    Pilots of fewer than 10 steps say nothing, and there are none: the recipe's rate is used. Where a head would take
    more than a tenth of the budget, one member is fine-tuned with all of it, and nothing is chosen. Pilots are not
    part of the ensemble. Every fit and every prediction for validation images is billed. Nothing is shifted.

    Attributes:
        factor: Factor between the learning rates that are tried; 1 to use that of the recipe.
    """

    name: ClassVar[str] = "auto"

    factor: float = 3.0

    def __post_init__(self) -> None:
        require(1 <= self.factor < inf, "factor", self.factor, "must be at least 1 and finite")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there is nothing to choose from."""
        require(members > 1, "auto", members, "needs an ensemble of at least 2 members")

    def plan(self, prices: Prices) -> AutoPlan:
        """Return what will be trained; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            rule = "is required by auto: what the transfer may spend in fine-tunings, such as 1.1"
            raise SettingError("budget", None, rule)
        rule = f"must be at least {FEWEST_IMAGES} for auto, which chooses on them"
        require(prices.validation >= FEWEST_IMAGES, "validation", prices.validation, rule)
        prices.require_limit(prices.step, "a step of fine-tuning")
        limit, head, least = prices.limit, prices.head + prices.look, prices.step + prices.look
        if prices.head > DEAR * limit or limit < head + least:
            return AutoPlan(0, 0)
        heads = max(1, min(prices.members, int(HEADS * limit) // head, (limit - least) // head))
        pilot = int(PILOT * min(limit, prices.full)) // prices.step if self.factor > 1 else 0
        paid = heads * head + PILOTS * pilot * prices.step + least <= limit
        return AutoPlan(heads, pilot if pilot >= FEWEST_STEPS and paid else 0)

    def run(self, work: Workbench) -> TransferResult:
        """Return the chosen ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, labels = self.plan(work.prices), work.target.validation.labels
        if not plan.heads:
            return self._alone(work)
        encoders = work.first_encoders(plan.heads)
        starts = work.with_fresh_heads(encoders, "head")
        heads = _candidate(work, "heads alone", work.fit_heads(starts, work.recipes.head, "head").weights)
        pilots, taken = self._rates(work, plan.pilot)
        steps = _lengths(work.prices, int(work.left))
        rates = [taken[place % len(taken)] for place in range(len(steps))]
        tuned = _candidate(work, f"{len(rates)} fine-tuned", _fine_tuned(work, steps, rates))
        both = joined_candidates(f"{tuned.name} and heads alone", tuned, heads)
        chosen, told = choose([heads, tuned, both], labels)
        tried = [{"lr": p.lr, "steps": plan.pilot, "training": p.training, "taken": p.lr in taken} for p in pilots]
        story = {"candidates": told, "pilots": tried, "lr": rates, "steps": steps}
        return self._result(work, chosen.members, story)

    def _alone(self, work: Workbench) -> TransferResult:
        """Fine-tune one member with the whole budget."""
        steps = work.prices.steps(int(work.left), 1)
        fits = work.fine_tune_in(work.first_encoders(1), steps)
        story = {"candidates": [], "pilots": [], "lr": [work.recipes.full.lr], "steps": steps}
        return self._result(work, fits.weights, story)

    def _rates(self, work: Workbench, steps: int) -> tuple[list[Pilot], list[float]]:
        """Train the pilots; return them and the learning rates that are taken, that of the recipe without pilots."""
        own = work.recipes.full.lr
        if not steps:
            return [], [own]
        first, higher = (_pilot(work, lr, steps) for lr in (own, own * self.factor))
        pilots = [first, higher]
        if first.progress < NEAR * higher.progress:
            pilots.append(_pilot(work, higher.lr * self.factor, steps))
        elif higher.progress < NEAR * first.progress:
            pilots.append(_pilot(work, own / self.factor, steps))
        fastest = max(pilot.progress for pilot in pilots)
        if not fastest:  # none has learned anything, so none tells
            return pilots, [own]
        return pilots, sorted(pilot.lr for pilot in pilots if pilot.progress >= NEAR * fastest)

    def _result(self, work: Workbench, members: Sequence[Weights], choice: Mapping[str, Any]) -> TransferResult:
        return TransferResult(work.ensemble(members, self.name), work.ledger, (), story={"choice": choice})


def _lengths(prices: Prices, flops: int) -> list[int]:
    """Return the steps of the members that share FLOPs: two to eight, as many as see every image seven times."""
    epoch = -(-prices.examples // prices.recipes.full.batch_size)
    count = max(FEW, min(MANY, flops // (EPOCHS * epoch * prices.step + prices.look)))
    count = min(count, prices.members, flops // (prices.step + prices.look))
    return prices.steps(flops - count * prices.look, count)


def _fine_tuned(work: Workbench, steps: Sequence[int], rates: Sequence[float]) -> list[Weights]:
    """Fine-tune the first members fully, each for its own number of steps and with its own learning rate."""
    done: dict[int, Weights] = {}
    for lr in dict.fromkeys(rates):
        members = [member for member, own in enumerate(rates) if own == lr]
        encoders = {member: work.encoders[member] for member in members}
        fits = _at(work, lr).fine_tune_in(encoders, [steps[member] for member in members])
        done |= dict(zip(members, fits.weights, strict=True))
    return [done[member] for member in range(len(rates))]


def _at(work: Workbench, lr: float) -> Workbench:
    """Return the workbench, with the same ledger, at another learning rate of ``recipe.full``."""
    recipes = replace(work.recipes, full=replace(work.recipes.full, lr=lr))
    return replace(work, recipes=recipes)


def _pilot(work: Workbench, lr: float, steps: int) -> Pilot:
    """Fine-tune the first member for some steps at a learning rate; one that diverges costs as much as any."""
    bench = _at(work, lr).billing("pilot", 0)
    try:
        curve: Tensor = bench.fine_tune_in(work.first_encoders(1), [steps]).fitted[0].curve
    except SettingError as error:
        if error.setting != "recipe.full.lr":
            raise
        bench.bill([Entry("pilot", 0, Cost(steps=steps, flops=steps * work.prices.step))])
        return Pilot(lr, None, 0.0)
    training = float(curve[curve[:, 0] >= SETTLED * curve[-1, 0], 1].mean())
    return Pilot(lr, training, max(0.0, log(len(work.target.classes)) - training))


def _candidate(work: Workbench, name: str, members: Sequence[Weights]) -> Candidate:
    return Candidate(name, members, work.look(members))
