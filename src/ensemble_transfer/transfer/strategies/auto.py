"""Strategy ``auto``: looks for the best use of a budget on validation, and pays for looking out of the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.transfer.base import UNSHIFTABLE, TransferResult, Workbench
from ensemble_transfer.transfer.choice import Candidate, choose, joined_candidates
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.shift.turns import (
    Moves,
    best_scale,
    recipient_price,
    require_scales,
)
from ensemble_transfer.weights import Weights

HEADS, SHIFTED, CHEAP = 0.05, 0.1, 0.05
"""Shares of the budget: what heads may take, and shifted members beside one that is fine-tuned, and beside more."""

SHARED = 1.2
"""Budget in fine-tunings from which two members share it where no pilot says what to do."""

PILOT = 1 / 8
"""Length of the pilot as a share of the budget."""

FITTED = 0.5
"""A pilot whose training loss is below this share of its validation loss has learned what the labels hold."""

DEAR = 0.1
"""Share of the budget above which a head is too dear, and one member is fine-tuned with all of it."""

FEWEST_STEPS, FEWEST_EPOCHS, FEWEST_IMAGES = 10, 2, 20
"""Steps and epochs of a pilot, below which there is none, and validation images, below which nothing can be chosen."""

SETTLED = 5
"""Points of the learning curve whose mean is the training loss at the end of a fit."""


@dataclass(frozen=True)
class AutoPlan:
    """How ``auto`` begins.

    Attributes:
        heads: Members that get a head alone; 0 to fine-tune one member with the whole budget, and choose nothing.
        pilot: Steps of the pilot; 0 for none.
    """

    heads: int
    pilot: int


@dataclass(frozen=True)
class Auto:
    """Choose among heads, one, two or many fully fine-tuned members, and a shift, on validation and within the budget.

    1. Train heads alone, for as many members as a twentieth of the budget pays for.
    2. Fine-tune a pilot fully: one member, with an eighth of the budget.
    3. Split what is left by what the pilot shows. If its training loss is below half of its validation loss, the labels
       are learned, and longer training is no use: ``many`` members of the pilot's length, and, where heads alone are
       better than the pilot on validation, heads for more members first. If not, and the pilot is
       better than heads on validation: ``two`` members. If it is not even better than heads, training is far from
       done: ``one`` member.
    4. Shift other members as these moved, in turns, by the scale that serves one of them best, with probed heads;
       members that are copies of one encoder are not shifted.
       With one member a tenth of the budget is set aside for that, with more a twentieth.
    5. Take the ensemble of all this that has the lowest calibrated NLL on validation.

    A pilot that sees the training images fewer than twice says nothing, and there is none: the budget goes to ``one``
    member, from 1.2 fine-tunings on to ``two``, and a tenth of it is set aside for shifted ones. Where a head would
    take more than a tenth of the budget, one member is fine-tuned with all of it, and nothing is chosen.

    Every fit and every prediction for validation images is billed.

    Attributes:
        scales: Scales that are tried with the first shifted member.
    """

    name: ClassVar[str] = "auto"
    about: ClassVar[str] = (
        "Look for the best use of a budget on validation: heads, few or many members, a shift. Needs budget=..."
    )
    role: ClassVar[str] = "method"

    scales: list[float] = field(default_factory=lambda: [1.0, 1.5, 2.0])

    def __post_init__(self) -> None:
        require_scales(self.scales)

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there is nothing to choose from."""
        require(members > 1, "auto", members, "needs an ensemble of at least 2 members")

    def plan(self, prices: Prices) -> AutoPlan:
        """Return how the choice begins; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            raise SettingError(
                "budget", None, "is required by auto: what the transfer may spend in fine-tunings, such as 1.1"
            )
        rule = f"must be at least {FEWEST_IMAGES} for auto, which chooses on them"
        require(prices.validation >= FEWEST_IMAGES, "validation", prices.validation, rule)
        head, least, limit = prices.head + prices.look, _least(prices), prices.limit
        prices.require_limit(prices.step, "a step of fine-tuning")
        if prices.head > DEAR * limit or limit < head + least:
            return AutoPlan(heads=0, pilot=0)
        heads = max(1, min(prices.members, int(HEADS * limit) // head))
        pilot = int(PILOT * limit) // prices.step
        shown = pilot * min(prices.recipes.full.batch_size, prices.examples)
        telling = pilot >= FEWEST_STEPS and shown >= FEWEST_EPOCHS * prices.examples and prices.members > 2
        paid = heads * head + pilot * prices.step + prices.look + least <= limit
        return AutoPlan(heads, pilot if telling and paid else 0)

    def run(self, bench: Workbench) -> TransferResult:
        """Return the chosen ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, labels = self.plan(bench.prices), bench.target.validation.labels
        if not plan.heads:
            return self._alone(bench)
        heads = _heads(bench, range(plan.heads))
        pilots, seen = _pilot(bench, plan.pilot, heads)
        split = _split(seen, bench.budget or 0.0)
        if seen is not None and split == "many" and seen["heads"] < seen["pilot"]:
            heads = _more_heads(bench, heads)
        lengths = self._lengths(bench, plan, split)
        rest = _fine_tuned(bench, lengths, len(pilots))
        used = len(pilots) + len(rest)
        donors = {len(pilots) + place: fitted.members[0] for place, fitted in enumerate(rest)}
        others = [*range(used, len(bench.source)), *range(len(pilots))]
        scale, shifted = self._shifted(bench, donors, others)
        taken, scores = choose(_candidates(heads, pilots, rest, shifted), labels)
        decisions = {"candidates": scores, "pilot": seen, "split": split, "steps": [*lengths], "scale": scale}
        recipients = tuple(others[: len(shifted.members)]) if shifted else ()
        return TransferResult(
            bench.ensemble(taken.members, self.name), bench.ledger, recipients, decisions={"choice": decisions}
        )

    def _alone(self, bench: Workbench) -> TransferResult:
        """Fine-tune one member with the whole budget."""
        steps = bench.prices.steps(int(bench.left), 1)
        fits = bench.fine_tune_in(bench.first_encoders(1), steps)
        decisions = {"candidates": [], "pilot": None, "split": "alone", "steps": steps, "scale": None}
        return TransferResult(
            bench.ensemble(fits.weights, self.name), bench.ledger, (), decisions={"choice": decisions}
        )

    def _lengths(self, bench: Workbench, plan: AutoPlan, split: str) -> list[int]:
        """Return the steps of the members that the rest of the budget is split among."""
        prices, limit = bench.prices, bench.prices.limit or 0
        left, trials = int(bench.left), len(self.scales) * _recipient(prices)
        others = trials + max(0, prices.members - 2) * _recipient(prices)
        aside = min(int((SHIFTED if split == "one" or not plan.pilot else CHEAP) * limit), others)
        aside = aside if aside >= trials and _can_shift(bench) else 0
        if split == "many":
            count = max(1, min(prices.members - 1, (left - aside) // (plan.pilot * prices.step + prices.look)))
        else:
            count = {"one": 1, "two": min(2, prices.members - 1)}[split]
        count = min(count, left // _least(prices))
        aside = aside if left - aside >= count * _least(prices) else 0
        return prices.steps(left - aside - count * prices.look, count)

    def _shifted(
        self, bench: Workbench, donors: Mapping[int, Weights], others: Sequence[int]
    ) -> tuple[float | None, Candidate | None]:
        """Return the scale that was chosen, and the members shifted by it that the rest of the budget pays for."""
        affordable = int(bench.left) // _recipient(bench.prices)
        if affordable < len(self.scales) or not others or not _can_shift(bench):
            return None, None
        first, *more = others[: 1 + affordable - len(self.scales)]
        moves = Moves.in_turns(bench, donors, [first, *more])
        scale, shifted = best_scale(moves, self.scales)
        if not more:
            return scale, shifted
        further = _candidate(bench, "shifted", moves.of(more).shifted(scale))
        return scale, joined_candidates("shifted", shifted, further)


def _least(prices: Prices) -> int:
    """Return what the shortest member costs: a step of fine-tuning, and its predictions on validation."""
    return prices.step + prices.look


def _recipient(prices: Prices) -> int:
    """Return what a shifted member costs: statistics, a probed head, and its predictions on validation."""
    return recipient_price(prices) + prices.look


def _can_shift(bench: Workbench) -> bool:
    """Return whether a shift may serve the members; without a source task they may all be copies of one encoder."""
    return bench.source.lineage not in UNSHIFTABLE


def _candidate(bench: Workbench, name: str, members: Sequence[Weights]) -> Candidate:
    return Candidate(name, members, bench.look(members))


def _heads(bench: Workbench, members: Sequence[int]) -> Candidate:
    starts = bench.with_fresh_heads({member: bench.encoders[member] for member in members}, "head")
    return _candidate(bench, "heads alone", bench.fit_heads(starts, bench.recipes.head, "head").weights)


def _more_heads(bench: Workbench, heads: Candidate) -> Candidate:
    """Return the heads with those of further members, which may take half of what is left."""
    first, price = len(heads.members), bench.prices.head + bench.prices.look
    last = min(len(bench.source), first + min(int(bench.left) // 2, int(bench.left) - _least(bench.prices)) // price)
    return joined_candidates("heads alone", heads, _heads(bench, range(first, last))) if last > first else heads


def _fine_tuned(bench: Workbench, steps: Sequence[int], first: int) -> list[Candidate]:
    """Fine-tune members fully, from a first one on, each with its number of steps."""
    encoders = {first + place: bench.encoders[first + place] for place in range(len(steps))}
    weights = bench.fine_tune_in(encoders, steps).weights
    return [_candidate(bench, f"{s} steps", [member]) for s, member in zip(steps, weights, strict=True)]


def _pilot(bench: Workbench, steps: int, heads: Candidate) -> tuple[list[Candidate], dict[str, float] | None]:
    """Fine-tune the pilot; return it, and its losses beside that of heads: nothing and None without a pilot."""
    if not steps:
        return [], None
    fits, labels = bench.fine_tune_in(bench.first_encoders(1), [steps]), bench.target.validation.labels
    pilot = _candidate(bench, f"{steps} steps", fits.weights)
    training = float(fits.fitted[0].curve[-SETTLED:, 1].mean())
    losses = {name: float(candidate.losses(labels).mean()) for name, candidate in (("pilot", pilot), ("heads", heads))}
    return [pilot], {"steps": steps, "training": training, **losses}


def _split(pilot: Mapping[str, float] | None, budget: float) -> str:
    """Return what the rest of the budget is split among: ``one``, ``two`` or ``many`` members."""
    if pilot is None:
        return "two" if budget >= SHARED else "one"
    if pilot["training"] < FITTED * pilot["pilot"]:
        return "many"
    return "two" if pilot["pilot"] < pilot["heads"] else "one"


def _candidates(
    heads: Candidate, pilots: Sequence[Candidate], rest: Sequence[Candidate], shifted: Candidate | None
) -> list[Candidate]:
    """Return the ensembles that can be made of what was trained."""
    trained = [heads, *([] if shifted is None else [shifted])]
    fine_tuned = [[rest[0]]]
    if len(rest) > 1:
        fine_tuned.append(list(rest))
    if pilots:
        fine_tuned.append([*pilots, *rest])
    candidates = [heads]
    for parts in fine_tuned:
        name = f"{len(parts)} fine-tuned ({', '.join(part.name for part in parts)})"
        candidates.append(joined_candidates(name, *parts))
        for more in trained:
            what = "heads alone" if more is heads else f"{len(more.members)} shifted"
            candidates.append(joined_candidates(f"{name} and {what}", *parts, more))
    return candidates
