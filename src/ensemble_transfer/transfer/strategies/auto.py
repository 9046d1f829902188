"""Strategy ``auto``: divides a budget, and pays for choosing out of it.

With small nets it chooses learning rate, members and heads, here; with pretrained ones image sizes and members, in
:mod:`~ensemble_transfer.transfer.growth`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any, ClassVar

from torch import Tensor

from ensemble_transfer.errors import DivergedError, require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import listed, require_sizes
from ensemble_transfer.training.cost import Cost, Entry, measured
from ensemble_transfer.transfer.choice import Candidate, choose, differ, joined_candidates
from ensemble_transfer.transfer.growth import FEWEST_IMAGES, GrowthPlan, chosen, grow, told
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights

HEADS_SHARE = 0.05
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
    """Divide a budget: among image sizes and members of pretrained nets, or among rates, members and heads of others.

    Where ``recipe.pretrained`` says that networks start from pretrained weights, their rate is tuned, and all of the
    budget goes to members: see :func:`~ensemble_transfer.transfer.growth.grow`. Else:

    1. Train heads alone, for as many members as a twentieth of the budget pays for.
    2. Fine-tune the first member for a sixteenth of a fine-tuning, or of the budget, with the learning rate of
       ``recipe.full``, and with one ``factor`` times as high: the pilots. If one of them has made less than four fifths
       of the other's progress, a third goes further in the better direction; where neither has made any, a third has
       a lower rate. The rates that have made at least four fifths of the fastest's progress are taken. This looks at
       training loss alone, which is steady where validation images are few.
    3. Split what is left evenly among two members; among up to eight, if each sees every image seven times.
       Fine-tune them fully, with the rates that were taken in turns. Members of different rates also differ more.
    4. Take heads, fine-tuned members or both, whichever has the lowest calibrated NLL on validation. Both together are
       a candidate only where neither is clearly better than the other: weak members would only dilute strong ones.

    Pilots of fewer than 10 steps say nothing, and there are none: the recipe's rate is used. Where a head would take
    more than a tenth of the budget, one member is fine-tuned with all of it, and nothing is chosen. Pilots are not
    part of the ensemble. Every fit and every prediction for validation images is billed. Nothing is shifted.

    Attributes:
        factor: Factor between the learning rates that are tried; 1 to use that of the recipe. Of no use to pretrained
            networks.
        image_size: Image size of the members, in pixels; of pretrained networks several to take from. None for that
            of the dataset, and, of pretrained networks, three quarters and half of it, and so on, down to
            ``recipe.image_size``.
    """

    name: ClassVar[str] = "auto"
    about: ClassVar[str] = (
        "Divide a budget among sizes, members, rates, heads: "
        "ahead on small nets and on two tasks of photos. Needs budget=..."
    )
    role: ClassVar[str] = "method"
    needs_budget: ClassVar[bool] = True

    factor: float = 3.0
    image_size: Any = None

    def __post_init__(self) -> None:
        require(1 <= self.factor < inf, "factor", self.factor, "must be at least 1 and finite")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there is nothing to choose from."""
        require(members > 1, "auto", members, "needs an ensemble of at least 2 members")
        require_sizes(self.image_size, architecture)

    def plan(self, prices: Prices) -> AutoPlan | GrowthPlan:
        """Return what will be trained; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.recipes.pretrained:
            return GrowthPlan.of(prices, listed(self.image_size))
        require_sizes(self.image_size, prices.architecture, several=False)
        return self._begun(prices.at(self.image_size))

    def _begun(self, prices: Prices) -> AutoPlan:
        assert prices.limit is not None, "auto needs a budget"
        rule = f"must be at least {FEWEST_IMAGES} for auto, which chooses on them"
        require(prices.validation >= FEWEST_IMAGES, "validation", prices.validation, rule)
        prices.require_limit(prices.step, "a step of fine-tuning")
        limit, head, least = prices.limit, prices.head + prices.look, prices.step + prices.look
        if prices.head > DEAR * limit or limit < head + least:
            return AutoPlan(0, 0)
        heads = max(1, min(prices.members, int(HEADS_SHARE * limit) // head, (limit - least) // head))
        pilot = int(PILOT * min(limit, prices.full)) // prices.step if self.factor > 1 else 0
        paid = heads * head + PILOTS * pilot * prices.step + least <= limit
        return AutoPlan(heads, pilot if pilot >= FEWEST_STEPS and paid else 0)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the chosen ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, labels = self.plan(bench.prices), bench.target.validation.labels
        if isinstance(plan, GrowthPlan):
            return self._grown(bench, plan)
        bench = bench.at(self.image_size)
        if not plan.heads:
            return self._alone(bench)
        encoders = bench.first_encoders(plan.heads)
        starts = bench.with_fresh_heads(encoders, "head")
        heads = _candidate(bench, "heads alone", bench.fit(starts, bench.recipes.head, "head", heads=True).weights)
        pilots, taken = self._rates(bench, plan.pilot)
        steps = _lengths(bench.prices, int(bench.left))
        rates = [taken[place % len(taken)] for place in range(len(steps))]
        tuned = _candidate(bench, f"{len(rates)} fine-tuned", _fine_tuned(bench, steps, rates))
        best, scores = choose(_with_both(heads, tuned, labels), labels)
        tried = [{"lr": p.lr, "steps": plan.pilot, "training": p.training, "taken": p.lr in taken} for p in pilots]
        decisions = {"candidates": scores, "pilots": tried, "lr": rates, "steps": steps}
        return self._result(bench, best.members, decisions)

    def _grown(self, bench: Workbench, plan: GrowthPlan) -> TransferResult:
        """Train members by a plan, and take those that are best on validation."""
        labels, grown = bench.target.validation.labels, grow(bench, plan)
        taken, scores = chosen(grown, labels)
        decisions = {"candidates": scores, "pilots": [], "lr": [bench.recipes.full.lr], "grown": told(grown, labels)}
        sizes, members = [own.size for own in taken], [own.weights for own in taken]
        return self._result(bench, members, decisions | {"steps": [own.steps for own in taken]}, sizes)

    def _alone(self, bench: Workbench) -> TransferResult:
        """Fine-tune one member with the whole budget."""
        steps = bench.prices.steps(int(bench.left), 1)
        fits = bench.fine_tune_in([0], steps)
        decisions = {"candidates": [], "pilots": [], "lr": [bench.recipes.full.lr], "steps": steps}
        return self._result(bench, fits.weights, decisions)

    def _rates(self, bench: Workbench, steps: int) -> tuple[list[Pilot], list[float]]:
        """Train the pilots; return them and the learning rates that are taken, that of the recipe without pilots."""
        own = bench.recipes.full.lr
        if not steps:
            return [], [own]
        first, higher = (_pilot(bench, lr, steps) for lr in (own, own * self.factor))
        pilots = [first, higher]
        if first.progress < NEAR * higher.progress:
            pilots.append(_pilot(bench, higher.lr * self.factor, steps))
        elif not first.progress or higher.progress < NEAR * first.progress:
            pilots.append(_pilot(bench, own / self.factor, steps))
        fastest = max(pilot.progress for pilot in pilots)
        if not fastest:  # none has learned anything: the one that has done the least harm
            return pilots, [min(pilots, key=lambda pilot: inf if pilot.training is None else pilot.training).lr]
        return pilots, sorted(pilot.lr for pilot in pilots if pilot.progress >= NEAR * fastest)

    def _result(
        self, bench: Workbench, members: Sequence[Weights], choice: Mapping[str, Any], sizes: Sequence[int] = ()
    ) -> TransferResult:
        ensemble = bench.ensemble(members, self.name, sizes)
        return TransferResult(ensemble, bench.ledger, (), decisions={"choice": choice})


def _lengths(prices: Prices, flops: int) -> list[int]:
    """Return the steps of the members that share FLOPs: two to eight, as many as see every image seven times."""
    epoch = -(-prices.examples // prices.recipes.full.batch_size)
    count = max(FEW, min(MANY, flops // (EPOCHS * epoch * prices.step + prices.look)))
    count = min(count, prices.members, flops // (prices.step + prices.look))
    return prices.steps(flops - count * prices.look, count)


def _fine_tuned(bench: Workbench, steps: Sequence[int], rates: Sequence[float]) -> list[Weights]:
    """Fine-tune the first members fully, each for its own number of steps and with its own learning rate."""
    done: dict[int, Weights] = {}
    for lr in dict.fromkeys(rates):
        members = [member for member, own in enumerate(rates) if own == lr]
        fits = _at(bench, lr).fine_tune_in(members, [steps[member] for member in members])
        done |= dict(zip(members, fits.weights, strict=True))
    return [done[member] for member in range(len(rates))]


def _at(bench: Workbench, lr: float) -> Workbench:
    """Return the workbench, with the same ledger, at another learning rate of ``recipe.full``."""
    recipes = replace(bench.recipes, full=replace(bench.recipes.full, lr=lr))
    return replace(bench, recipes=recipes)


def _pilot(bench: Workbench, lr: float, steps: int) -> Pilot:
    """Fine-tune the first member for some steps at a learning rate; one that diverges costs as much as any."""
    at_rate, curve = _at(bench, lr).billing("pilot", 0), None
    with measured(bench.fitter.settings.device) as meter, suppress(DivergedError):
        curve = at_rate.fine_tune_in([0], [steps]).fitted[0].curve
    if curve is None:
        examples = steps * min(bench.recipes.full.batch_size, bench.prices.examples)
        time = meter.seconds, meter.cpu_seconds, meter.peak_memory_bytes
        at_rate.bill([Entry("pilot", 0, Cost(steps, examples, steps * bench.prices.step, *time))])
        return Pilot(lr, None, 0.0)
    training = float(curve[curve[:, 0] >= SETTLED * curve[-1, 0], 1].mean())
    return Pilot(lr, training, max(0.0, log(len(bench.target.classes)) - training))


def _candidate(bench: Workbench, name: str, members: Sequence[Weights]) -> Candidate:
    return Candidate(name, members, bench.look(members))


def _with_both(heads: Candidate, tuned: Candidate, labels: Tensor) -> list[Candidate]:
    """Return both candidates, and that of both together, unless one of them is clearly better than the other."""
    if differ(heads, tuned, labels):
        return [heads, tuned]
    return [heads, tuned, joined_candidates(f"{tuned.name} and heads alone", tuned, heads)]
