"""Strategy ``shift``: one shift vector for all members, then a tiny fine-tuning for each.

    shift      = encoder(donor after full fine-tuning) - encoder(donor before)
    recipient' = encoder(recipient) + scale * shift        then: new head, tiny fine-tuning

Shashkov, Balabin, Burnaev and Zaytsev 2022, arXiv 2206.13116. ``random_shift`` and ``zero_shot`` are the same with
another direction, and without the tiny fine-tuning.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite

from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import generator
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult
from ensemble_transfer.transfer.shift.alignment import channel_groups
from ensemble_transfer.transfer.shift.alignment.aligner import ALIGNMENTS, Aligner
from ensemble_transfer.transfer.shift.search import ScaleSearch, best_probed
from ensemble_transfer.transfer.shift.vector import ShiftVector, donor_weights, layer_groups, learned, scaled
from ensemble_transfer.weights import Weights, add_scaled, below, joined, mean, random_like, subtract

DIRECTIONS = ("donor", "random")
SEARCHES = ("none", "whole", "layers", "probe")
STATISTICS = ("reestimate", "shift", "keep")
HEADS = ("probe", "donor", "fresh")
FINISHES = ("tiny", "head")


@dataclass(frozen=True)
class Shift:
    """Fine-tune donors fully, shift the other members' encoders as the donors moved, then fine-tune each a little.

    Attributes:
        donors: Number of members that are fully fine-tuned, the first ones; the shift is the mean of theirs.
        scale: How far recipients are shifted along the vector; where a search starts.
        search: Choose the scale on validation: ``none``, one for the ``whole`` encoder, ``layers`` for one each
            layer group, or ``probe`` for ``scale`` or no shift at all, whichever serves a new head better.
        scales: Candidates of a search of the ``whole`` or of ``layers``.
        search_budget: What such a search may cost, as a share of the donors' fine-tuning in operations.
        align: Permute the donor's channels to each recipient's before shifting: ``none``, or by ``weights`` or
            ``activations`` (for members of independent lineage).
        statistics: BatchNorm's running statistics after the shift: ``reestimate`` them on the target's training
            data, ``shift`` them like weights, or ``keep`` the recipient's.
        head: Where a recipient's head starts: ``probe`` trains a new one on frozen features, ``donor`` copies the
            donor's (donors take turns), ``fresh`` is random.
        direction: Shift as the ``donor`` moved, or along a ``random`` vector whose every tensor has the same norm
            (the control).
        finish: What follows the shift: a ``tiny`` fine-tuning, or ``head`` for nothing but the head.
    """

    donors: int = 1
    scale: float = 1.0
    search: str = "none"
    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.25])
    search_budget: float = 0.05
    align: str = "none"
    statistics: str = "reestimate"
    head: str = "probe"
    direction: str = "donor"
    finish: str = "tiny"

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")
        require(isfinite(self.scale), "scale", self.scale, "must be a finite number")
        for name, value, allowed in (
            ("search", self.search, SEARCHES),
            ("align", self.align, ALIGNMENTS),
            ("statistics", self.statistics, STATISTICS),
            ("head", self.head, HEADS),
            ("direction", self.direction, DIRECTIONS),
            ("finish", self.finish, FINISHES),
        ):
            require(value in allowed, name, value, f"must be one of {', '.join(allowed)}")
        usable = bool(self.scales) and all(isfinite(scale) for scale in self.scales)
        require(usable, "scales", self.scales, "must be one or more finite numbers")
        require(self.search_budget > 0, "search_budget", self.search_budget, "must be above 0")
        random_head = self.finish == "head" and self.head == "fresh"
        require(not random_head, "head", self.head, "would stay random with finish=head; use probe or donor")

    @property
    def name(self) -> str:
        """``shift``, or ``random_shift`` or ``zero_shot`` for these options."""
        if self.direction == "random":
            return "random_shift"
        return "zero_shot" if self.finish == "head" else "shift"

    def check(self, members: int) -> None:
        """Raise a SettingError if there are more donors than members."""
        rule = f"must be at most ensemble.size={members}"
        require(self.donors <= members, "donors", self.donors, rule)

    def check_encoder(self, architecture: Architecture) -> None:
        """Raise a SettingError if an encoder's channels cannot be aligned, where they are to be."""
        if self.align != "none":
            channel_groups(architecture)

    def transfer(
        self,
        source: Ensemble,
        target: Task,
        seed: int = 0,
        recipes: Recipes = Recipes(),  # noqa: B008  # frozen
        fitter: Fitter = Fitter(),  # noqa: B008  # frozen
    ) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        self.check(len(source))
        self.check_encoder(source.architecture)
        work = Transfer(source, target, seed, recipes, fitter)
        recipients = dict(work.encoders)
        before = {member: recipients.pop(member) for member in range(self.donors)}
        donors = work.fine_tune_fully(before)
        ledger = Ledger(donors.entries())
        aligner = Aligner(work, self.align, before[0])
        vector = self._direction(work, aligner, before, donors, ledger)
        scales = dict.fromkeys(layer_groups(vector), self.scale)
        if self.search != "none" and recipients:
            scales = self._searched(work, aligner, recipients, vector, donors, ledger)
        shift = ShiftVector(vector, scales, self._provenance(work))
        added = self.add(work, recipients, shift, donors.weights, ledger, aligner)
        heads = {member: aligner.head(member, below(donors.weights[0], "head")) for member in recipients}
        ensemble = work.ensemble((*donors.weights, *added.weights), self.name)
        return TransferResult(ensemble, ledger, tuple(recipients), shift, added.shifted, heads)

    def add(
        self,
        work: Transfer,
        recipients: Mapping[int, Weights],
        shift: ShiftVector,
        donors: Sequence[Weights],
        ledger: Ledger,
        aligner: Aligner | None = None,
    ) -> "Added":
        """Bring members to the target by a shift vector: what a transfer does with recipients, at any time.

        A member's result depends on its own weights and index, the vector and the donors alone, so that one that is
        added later is the one that would have been there from the start.

        Args:
            work: The transfer.
            recipients: Encoders before the shift, by member.
            shift: The shift vector.
            donors: The donors' weights after their fine-tuning, for ``head=donor``.
            ledger: Where the cost goes.
            aligner: Finds permutations, if the caller has asked it for some already.
        """
        aligner = aligner or Aligner(work, self.align, work.encoders[0])
        vector = shift.scaled()
        own = {member: aligner.to_member(member, encoder, vector, ledger) for member, encoder in recipients.items()}
        shifted = self._shifted(work, recipients, own, ledger)
        starts = self._with_heads(shifted, donors, work, aligner, ledger)
        if self.finish == "head":
            return Added(tuple(start.weights for start in starts), shifted)
        tiny = work.fine_tune_tiny(starts)
        ledger.extend(tiny.entries())
        return Added(tiny.weights, shifted)

    def _direction(
        self, work: Transfer, aligner: Aligner, before: Mapping[int, Weights], donors: Fits, ledger: Ledger
    ) -> dict[str, Tensor]:
        """Return the vector to shift along, in the coordinates of the first donor."""
        moves = {member: subtract(below(w, "encoder"), before[member]) for member, w in enumerate(donors.weights)}
        others = [aligner.from_member(m, before[m], move, ledger) for m, move in moves.items() if m > 0]
        vector = mean([moves[0], *others])
        if self.direction == "random":
            vector |= random_like(learned(vector), generator(work.seed, "random shift"))
        return vector

    def _searched(
        self,
        work: Transfer,
        aligner: Aligner,
        recipients: Mapping[int, Weights],
        vector: Weights,
        donors: Fits,
        ledger: Ledger,
    ) -> dict[str, float]:
        """Return the scales that validation prefers."""
        head = below(donors.weights[0], "head")
        member, encoder = next(iter(recipients.items()))
        own = aligner.to_member(member, encoder, vector, ledger)
        if self.search == "probe":
            groups, probes = layer_groups(vector), Ledger()
            ways = {scale: scaled(own, dict.fromkeys(groups, scale)) for scale in (self.scale, 0.0)}
            tried = {s: self._shifted(work, {member: encoder}, {member: way}, probes) for s, way in ways.items()}
            best = best_probed(work, tried, probes)
            ledger.extend(replace(entry, phase="scale search", member=0) for entry in probes.entries)
            return dict.fromkeys(groups, best)
        budget = self.search_budget * sum(entry.cost.flops for entry in donors.entries())
        search = ScaleSearch(work, encoder, own, aligner.head(member, head), budget)
        return search.run(self.scales, self.scale, self.search == "layers", ledger)

    def _shifted(
        self, work: Transfer, encoders: Mapping[int, Weights], vectors: Mapping[int, Weights], ledger: Ledger
    ) -> dict[int, Weights]:
        """Return ``encoder + vector`` of every member, with running statistics as the option says."""
        moved: dict[int, Weights] = {m: self._moved(encoder, vectors[m]) for m, encoder in encoders.items()}
        return work.reestimate_statistics(moved, ledger) if self.statistics == "reestimate" else moved

    def _moved(self, encoder: Weights, vector: Weights) -> dict[str, Tensor]:
        """Return ``encoder + vector``, without the running statistics unless they are to be shifted."""
        moved = add_scaled(encoder, vector)
        if self.statistics == "shift":
            return {k: v.clamp(min=0) if k.endswith("running_var") else v for k, v in moved.items()}
        return {name: encoder[name] if is_statistic(name) else tensor for name, tensor in moved.items()}

    def _with_heads(
        self,
        encoders: Mapping[int, Weights],
        donors: Sequence[Weights],
        work: Transfer,
        aligner: Aligner,
        ledger: Ledger,
    ) -> list[Start]:
        """Return the starts of the tiny fine-tuning, with the heads that the options ask for."""
        if self.head == "probe":
            return work.with_probed_heads(encoders, ledger)
        starts = work.with_fresh_heads(encoders, "tiny")
        if self.head == "fresh":
            return starts
        turns = 1 if self.align != "none" else self.donors  # vectors come in the coordinates of the first donor
        heads = {s.member: aligner.head(s.member, below(donors[s.member % turns], "head")) for s in starts}
        return [replace(s, weights=joined(encoder=encoders[s.member], head=heads[s.member])) for s in starts]

    def _provenance(self, work: Transfer) -> dict[str, str]:
        return {
            "donors": ",".join(map(str, range(self.donors))),
            "donor_weights": donor_weights(work.source, range(self.donors)),
            "source_ensemble": work.source.fingerprint,
            "target_task": work.target.fingerprint,
            "target": work.target.name,
            "options": json.dumps(asdict(self)),
            "recipe": json.dumps(asdict(work.recipes.full)),
        }


@dataclass(frozen=True)
class Added:
    """Members that a shift vector brought to the target.

    Attributes:
        weights: Their weights, in the order of the recipients.
        shifted: Their encoders after the shift, before any fine-tuning.
    """

    weights: tuple[Weights, ...]
    shifted: Mapping[int, Weights]
