"""Strategy ``shift``: one shift vector for all members, then a tiny fine-tuning for each.

    shift      = encoder(donor after full fine-tuning) - encoder(donor before)
    recipient' = encoder(recipient) + scale * shift        then: new head, tiny fine-tuning

Shashkov, Balabin, Burnaev and Zaytsev 2022, arXiv 2206.13116. ``random_shift`` shifts in a random direction,
``zero_shot`` has no tiny fine-tuning.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, isfinite
from typing import ClassVar

from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.sizes import require_sizes
from ensemble_transfer.seeding import generator
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.fit import Fits, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.prices import FIXED, Prices, stretched
from ensemble_transfer.transfer.shift.result import ShiftResult
from ensemble_transfer.transfer.shift.vector import ShiftVector, donor_weights, learned
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import Weights, add_scaled, below, joined, mean, random_like, subtract

_ALLOWED = {
    "statistics": ("reestimate", "shift"),
    "head": ("probe", "donor", "fresh"),
    "direction": ("donor", "random"),
    "finish": ("tiny", "head"),
}
_ABOUT = {
    "shift": "Fine-tune a donor fully, shift all other encoders as it moved, then a tiny fine-tuning for each.",
    "zero_shot": "Shift and probe a head, without fine-tuning recipients: the cheapest that has a shift.",
    "random_shift": "Shift along a random vector whose every tensor has the norm of the donor's: the control.",
}


@dataclass(frozen=True)
class ShiftPlan:
    """Plan of a shift within its budget.

    Attributes:
        members: Number of transferred members, including the donors.
        full: Recipe of the donors.
        tiny: Recipe of the recipients.
    """

    members: int
    full: Recipe
    tiny: Recipe


@dataclass(frozen=True)
class Recipients:
    """Members that were transferred by a shift vector.

    Attributes:
        weights: Their weights, in the order of the recipients.
        shifted: Their encoders after the shift, before any fine-tuning, by member.
    """

    weights: tuple[Weights, ...] = field(repr=False)
    shifted: Mapping[int, Weights] = field(repr=False)


@dataclass(frozen=True)
class Shift:
    """Fine-tune donors fully, shift the other members' encoders as the donors moved, then fine-tune each a little.

    Within a budget, statistics and probes of the recipients take at most a quarter of it; if necessary, there are fewer
    recipients. The schedules of donors and recipients are stretched by the same factor to use the rest.

    Attributes:
        donors: Number of members that are fully fine-tuned, from the first on. The shift is the mean of their shifts.
        members: Number of transferred members, including the donors; None for all.
        scale: Factor of the shift vector.
        if_better: Whether to leave the shift out if a probed head is more accurate on validation without it.
        statistics: Running statistics of BatchNorm after the shift: ``reestimate`` them on the target's training
            images, or ``shift`` them like weights.
        head: How a recipient's head starts: ``probe`` to train it on frozen features, ``donor`` to copy a donor's
            (donors take turns), ``fresh`` for random weights.
        direction: Direction of the shift: ``donor``, or ``random`` for a random vector whose tensors have the same
            norms (the control).
        finish: What follows the shift: a ``tiny`` fine-tuning, or ``head`` for the new head alone.
        image_size: Image size of the members, in pixels; None for that of the dataset.
    """

    shifts: ClassVar[bool] = True

    donors: int = 1
    members: int | None = None
    scale: float = 1.0
    if_better: bool = False
    statistics: str = "reestimate"
    head: str = "probe"
    direction: str = "donor"
    finish: str = "tiny"
    image_size: int | None = None

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")
        enough = self.members is None or self.members >= self.donors
        require(enough, "members", self.members, f"must be at least donors={self.donors}, or null for all")
        require(isfinite(self.scale), "scale", self.scale, "must be a finite number")
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            require(value in allowed, name, value, f"must be one of {', '.join(allowed)}")
        random_head = self.finish == "head" and self.head == "fresh"
        require(not random_head, "head", self.head, "would stay random with finish=head; use probe or donor")

    @property
    def name(self) -> str:
        """``random_shift`` with a random direction, ``zero_shot`` without fine-tuning of recipients, else ``shift``."""
        if self.direction == "random":
            return "random_shift"
        return "zero_shot" if self.finish == "head" else "shift"

    @property
    def about(self) -> str:
        """What it does, in a line."""
        return _ABOUT[self.name]

    @property
    def role(self) -> str:
        """``random_shift`` is a control."""
        return "control" if self.direction == "random" else "method"

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if there are too few members."""
        rule = f"must be at most ensemble.size={members}"
        require(self.donors <= members, "donors", self.donors, rule)
        require(self.members is None or self.members <= members, "members", self.members, rule)
        require_sizes(self.image_size, architecture, several=False)

    def plan(self, prices: Prices) -> ShiftPlan:
        """Return how the budget is spent; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        prices = prices.at(self.image_size)
        recipes, fixed, aside = prices.recipes, self._fixed(prices), self._aside(prices)
        recipients = (self.members or prices.members) - self.donors
        if prices.limit is None:
            return ShiftPlan(self.donors + recipients, recipes.full, recipes.tiny)
        shortest = min(recipes.full.steps, recipes.tiny.steps) if self._tunes(recipients) else recipes.full.steps

        def least(count: int) -> int:
            """Return the lowest budget for so many recipients: a step for every fit, a quarter for what is fixed."""
            given = count * fixed + aside
            return max(given + -(-self._schedules(prices, count) // shortest), ceil(given / FIXED) if count else 0)

        fewest = min(1, recipients)
        prices.require_limit(least(fewest), f"{self.name} with {fewest} recipients")
        recipients = next(count for count in range(recipients, -1, -1) if least(count) <= prices.limit)
        factor = prices.scaled(recipients * fixed + aside, self._schedules(prices, recipients), self.name)
        return ShiftPlan(self.donors + recipients, stretched(recipes.full, factor), stretched(recipes.tiny, factor))

    def run(self, bench: Workbench) -> ShiftResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        plan, bench = self.plan(bench.prices), bench.at(self.image_size)
        recipients = bench.first_encoders(plan.members)
        before = {member: recipients.pop(member) for member in range(self.donors)}
        donors = bench.fine_tune_fully(before, plan.full)
        vector = self._direction(bench, before, donors)
        scale = self._better(bench, recipients, vector) if self.if_better and recipients else self.scale
        shift = ShiftVector(vector, scale, self._provenance(bench, plan))
        added = self.add(bench, recipients, shift, donors.weights)
        ensemble = bench.ensemble((*donors.weights, *added.weights), self.name)
        return ShiftResult(ensemble, bench.ledger, tuple(recipients), shift, added.shifted)

    def add(
        self, bench: Workbench, recipients: Mapping[int, Weights], shift: ShiftVector, donors: Sequence[Weights]
    ) -> Recipients:
        """Transfer recipients by a shift vector, during a transfer or at any later time.

        The result for a member depends only on its own weights and index, the vector and the donors. So a member that
        is added later equals the one that would have been there from the start.

        Args:
            bench: The workbench.
            recipients: Encoders before the shift, by member.
            shift: The shift vector.
            donors: The donors' weights after their fine-tuning, for ``head=donor``.
        """
        shifted = self._shifted(bench, recipients, shift.scaled())
        starts = self._with_heads(shifted, donors, bench)
        if self.finish == "head":
            return Recipients(tuple(start.weights for start in starts), shifted)
        return Recipients(bench.fit(starts, shift.tiny or bench.recipes.tiny, "tiny").weights, shifted)

    def _tunes(self, recipients: int) -> bool:
        return self.finish == "tiny" and recipients > 0

    def _schedules(self, prices: Prices, recipients: int) -> int:
        """Return what is stretched to use a budget: the fine-tunings of donors and recipients, in FLOPs."""
        return self.donors * prices.full + (recipients * prices.tiny if self._tunes(recipients) else 0)

    def _fixed(self, prices: Prices) -> int:
        """Return what a recipient takes whatever the schedules are, in FLOPs."""
        statistics = prices.statistics if self.statistics == "reestimate" else 0
        return statistics + (prices.probe if self.head == "probe" else 0)

    def _aside(self, prices: Prices) -> int:
        """Return what is spent once, besides donors and recipients, in FLOPs."""
        statistics = prices.statistics if self.statistics == "reestimate" else 0
        return 2 * (statistics + prices.probe + prices.look) if self.if_better else 0

    def _direction(self, bench: Workbench, before: Mapping[int, Weights], donors: Fits) -> dict[str, Tensor]:
        """Return the vector to shift along: the donors' mean move, or a random one as long."""
        vector = mean([subtract(below(w, "encoder"), before[donor]) for donor, w in enumerate(donors.weights)])
        if self.direction == "random":
            vector |= random_like(learned(vector), generator(bench.seed, "random shift"))
        return vector

    def _better(self, bench: Workbench, recipients: Mapping[int, Weights], vector: Weights) -> float:
        """Return the scale, or 0 where the first recipient's new head does better on validation without a shift.

        A new head makes the comparison fair: an unshifted encoder cannot suit the donor's head.
        """
        first, aside = dict([next(iter(recipients.items()))]), bench.billing("scale search")
        accuracies, labels = {}, bench.target.validation.labels
        for scale in (self.scale, 0.0):  # the first wins a tie
            shifted = self._shifted(aside, first, {name: scale * tensor for name, tensor in vector.items()})
            fits = aside.probe(aside.with_fresh_heads(shifted, "tiny"))
            predicted = aside.look(fits.weights, "scale search").argmax(-1)
            accuracies[scale] = float((predicted == labels).double().mean())
        return max(accuracies, key=accuracies.__getitem__)

    def _shifted(self, bench: Workbench, encoders: Mapping[int, Weights], vector: Weights) -> dict[int, Weights]:
        """Return ``encoder + vector`` of every member, with running statistics as the option says."""
        moved: dict[int, Weights] = {member: self._moved(encoder, vector) for member, encoder in encoders.items()}
        return bench.reestimate_statistics(moved) if self.statistics == "reestimate" else moved

    def _moved(self, encoder: Weights, vector: Weights) -> dict[str, Tensor]:
        """Return ``encoder + vector``, without the running statistics unless they are to be shifted."""
        moved = add_scaled(encoder, vector)
        if self.statistics == "shift":
            return {k: v.clamp(min=0) if k.endswith("running_var") else v for k, v in moved.items()}
        return {name: encoder[name] if is_statistic(name) else tensor for name, tensor in moved.items()}

    def _with_heads(self, encoders: Mapping[int, Weights], donors: Sequence[Weights], bench: Workbench) -> list[Start]:
        """Return the starts of the tiny fine-tuning, with the heads that the options ask for."""
        if self.head == "probe":
            return bench.with_probed_heads(encoders)
        starts = bench.with_fresh_heads(encoders, "tiny")
        if self.head == "fresh":
            return starts
        heads = [below(donor, "head") for donor in donors]
        given = {m: joined(encoder=encoder, head=heads[m % self.donors]) for m, encoder in encoders.items()}
        return [replace(start, weights=given[start.member]) for start in starts]

    def _provenance(self, bench: Workbench, plan: ShiftPlan) -> dict[str, str]:
        within = {} if bench.budget is None else {"budget": str(bench.budget), "tiny": json.dumps(asdict(plan.tiny))}
        return {
            "donors": ",".join(map(str, range(self.donors))),
            "donor_weights": donor_weights(bench.source, range(self.donors)),
            "source_ensemble": bench.source.fingerprint,
            "target_task": bench.target.fingerprint,
            "target": bench.target.name,
            "options": json.dumps(asdict(self)),
            "recipe": json.dumps(asdict(plan.full)),
            **within,
        }
