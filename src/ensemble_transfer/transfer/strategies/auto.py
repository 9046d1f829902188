"""Strategy ``auto``: looks for the best use of a budget on validation, and pays for looking out of the budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.transfer.base import TransferResult, Workbench
from ensemble_transfer.transfer.choice import Candidate, choose, joined_candidates
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights, add_scaled, below, subtract

HEADS, SHIFTED = 0.05, 0.1
"""Shares of the budget that heads, and shifted recipients with their trials, may take."""

PILOT = 1 / 8
"""Length of the first pilot as a share of the budget; the second is twice as long."""

FEWEST_STEPS, FEWEST_IMAGES = 10, 20
"""Steps of the first pilot, below which there is none, and validation images, below which nothing can be chosen."""


@dataclass(frozen=True)
class AutoPlan:
    """How ``auto`` begins.

    Attributes:
        heads: Members that get a head alone.
        pilots: Steps of the pilots: none, or two lengths.
        shifted: FLOPs that are set aside for shifted recipients.
    """

    heads: int
    pilots: tuple[int, ...]
    shifted: int


@dataclass(frozen=True)
class Auto:
    """Choose among heads, few or many fully fine-tuned members, and a shift, on validation and within the budget.

    1. Heads alone, for as many members as a twentieth of the budget pays for.
    2. Two pilots: members that are fully fine-tuned with an eighth and a quarter of the budget. What the longer one
       gains, g, and what both together gain as an ensemble, e, on validation (calibrated NLL), say how many members
       the budget is best split among: if a member's loss is a + c / length and the gain of k members is
       E (1 - 1/k), then ``k = sqrt(8 e / g)``.
    3. The rest of the budget goes to so many members of that length, at least one.
    4. The longest trained one is the donor: other members are shifted as it moved, by the scale that serves the first
       of them best, and get a probed head each.
    5. Of all this the ensemble is taken that has the lowest calibrated NLL on validation.

    Every fit and every prediction for validation images is billed.

    Attributes:
        scales: Scales that are tried with the first shifted member.
    """

    name: ClassVar[str] = "auto"

    scales: list[float] = field(default_factory=lambda: [1.0, 1.5])

    def __post_init__(self) -> None:
        usable = bool(self.scales) and all(math.isfinite(scale) for scale in self.scales)
        require(usable, "scales", self.scales, "must be one or more finite numbers")

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there is nothing to choose from."""
        require(members > 1, "auto", members, "needs an ensemble of at least 2 members")

    def plan(self, prices: Prices) -> AutoPlan:
        """Return how the choice begins; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        if prices.limit is None:
            raise SettingError("budget", None, "is required by auto: what the transfer may spend in fulls, such as 1.1")
        rule = f"must be at least {FEWEST_IMAGES} for auto, which chooses on them"
        require(prices.validation >= FEWEST_IMAGES, "validation", prices.validation, rule)
        head, limit = prices.head + prices.look, prices.limit
        least = head + prices.step + prices.look
        prices.require(limit >= least, "a head and a step of fine-tuning", least)
        heads = max(1, min(prices.members, int(HEADS * limit) // head))
        steps = int(PILOT * limit) // prices.step
        pilots = (steps, 2 * steps) if steps >= FEWEST_STEPS and prices.members > 2 else ()
        trials = len(self.scales) - 1 + prices.members - 1
        shifted = min(int(SHIFTED * limit), trials * _recipient(prices))
        return AutoPlan(heads, pilots, shifted if shifted >= len(self.scales) * _recipient(prices) else 0)

    def run(self, work: Workbench) -> TransferResult:
        """Return the chosen ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, labels = self.plan(work.prices), work.target.validation.labels
        starts = work.with_fresh_heads(work.first_encoders(plan.heads), "head")
        heads = _candidate(work, "heads alone", work.fit_heads(starts, work.recipes.head, "head").weights)
        pilots = self._fine_tuned(work, plan.pilots, 0)
        split = _split(pilots, labels, len(work.source))
        lengths = self._lengths(work, plan, split)
        rest = self._fine_tuned(work, lengths, len(pilots))
        donor, before = rest[0], work.encoders[len(pilots)]
        others = [*range(len(pilots) + len(rest), len(work.source)), *range(len(pilots))]
        scale, shifted = self._shifted(work, subtract(below(donor.members[0], "encoder"), before), others)
        candidates = _candidates(heads, pilots, rest, shifted)
        taken, told = choose(candidates, labels)
        story = {"candidates": told, "split": split, "steps": [*plan.pilots, *lengths], "scale": scale}
        members = tuple(range(len(pilots), len(pilots) + len(rest)))
        return TransferResult(work.ensemble(taken.members, self.name), work.ledger, members, story={"choice": story})

    def _lengths(self, work: Workbench, plan: AutoPlan, split: float | None) -> list[int]:
        """Return the steps of the members that the rest of the budget is split among."""
        prices = work.prices
        left = _left(work) - plan.shifted
        count = 1 if split is None else round(left * split / (prices.limit or 1))
        count = max(1, min(count, len(work.source) - len(plan.pilots)))
        return prices.steps(left - count * prices.look, count)

    def _fine_tuned(self, work: Workbench, steps: Sequence[int], first: int) -> list[Candidate]:
        """Fine-tune members fully, from a first one on, each with its number of steps."""
        encoders = {first + place: work.encoders[first + place] for place in range(len(steps))}
        weights = work.fine_tune_in(encoders, steps).weights if steps else ()
        return [_candidate(work, f"{s} steps", [member]) for s, member in zip(steps, weights, strict=True)]

    def _shifted(
        self, work: Workbench, vector: Weights, others: Sequence[int]
    ) -> tuple[float | None, Candidate | None]:
        """Return the scale that was chosen, and the members shifted by it that the rest of the budget pays for."""
        affordable = _left(work) // _recipient(work.prices)
        if affordable < len(self.scales) or not others:
            return None, None
        labels, trials = work.target.validation.labels, {}
        for scale in self.scales:
            trials[scale] = _shifted_members(work, vector, scale, others[:1])
        scale = min(trials, key=lambda tried: float(trials[tried].losses(labels).mean()))
        more = others[1 : 1 + affordable - len(self.scales)]
        if not more:
            return scale, trials[scale]
        return scale, joined_candidates("shifted", trials[scale], _shifted_members(work, vector, scale, more))


def _recipient(prices: Prices) -> int:
    """Return what a shifted member costs: statistics, a probed head, and its predictions on validation."""
    return prices.statistics + prices.probe + prices.look


def _left(work: Workbench) -> int:
    return (work.prices.limit or 0) - work.ledger.total().flops


def _candidate(work: Workbench, name: str, members: Sequence[Weights]) -> Candidate:
    return Candidate(name, members, work.look(members))


def _split(pilots: Sequence[Candidate], labels: Tensor, most: int) -> float | None:
    """Return the number of members that a budget is best split among, from two pilots; None without."""
    if len(pilots) < 2:
        return None
    short, long = (float(pilot.losses(labels).mean()) for pilot in pilots)
    both = float(joined_candidates("both", *pilots).losses(labels).mean())
    gain, together = max(short - long, 0.0), max((short + long) / 2 - both, 0.0)
    if gain * most**2 <= together / PILOT:
        return float(most) if together > 0 else 1.0
    return max(1.0, math.sqrt(together / (PILOT * gain)))


def _shifted_members(work: Workbench, vector: Weights, scale: float, members: Sequence[int]) -> Candidate:
    moved: Mapping[int, Weights] = {m: add_scaled(work.encoders[m], vector, scale) for m in members}
    starts = work.with_probed_heads(work.reestimate_statistics(moved))
    return _candidate(work, "shifted", [start.weights for start in starts])


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
