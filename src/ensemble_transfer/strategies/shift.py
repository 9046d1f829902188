"""Strategy ``shift``: one shift vector for all members, then a tiny fine-tuning for each.

    shift      = encoder(donor after full fine-tuning) - encoder(donor before)
    recipient' = encoder(recipient) + scale * shift        then: new head, tiny fine-tuning

Shashkov, Balabin, Burnaev and Zaytsev 2022, arXiv 2206.13116.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import ClassVar

from torch import Tensor

from ensemble_transfer.cost import Ledger
from ensemble_transfer.ensemble import Ensemble
from ensemble_transfer.errors import require
from ensemble_transfer.strategies.transfer import ShiftVector, Transfer, TransferResult
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.weights import Weights, add_scaled, below, joined, mean, subtract

HEADS = ("probe", "donor", "fresh")
STATISTICS = ("reestimate", "shift", "keep")


@dataclass(frozen=True)
class Shift:
    """Fine-tune donors fully, shift the other members' encoders as the donors moved, then fine-tune each a little.

    Attributes:
        donors: Number of members that are fully fine-tuned, the first ones; the shift is the mean of theirs.
        scale: How far recipients are shifted along the vector.
        head: Where a recipient's head starts: ``probe`` trains a new one on frozen features, ``donor`` copies the
            donor's (donors take turns), ``fresh`` is random.
        statistics: BatchNorm's running statistics after the shift: ``reestimate`` them on the target's training
            data, ``shift`` them like weights, or ``keep`` the recipient's.
    """

    name: ClassVar[str] = "shift"

    donors: int = 1
    scale: float = 1.0
    head: str = "probe"
    statistics: str = "reestimate"

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")
        require(isfinite(self.scale), "scale", self.scale, "must be a finite number")
        require(self.head in HEADS, "head", self.head, f"must be one of {', '.join(HEADS)}")
        rule = f"must be one of {', '.join(STATISTICS)}"
        require(self.statistics in STATISTICS, "statistics", self.statistics, rule)

    def check(self, members: int) -> None:
        """Raise a SettingError if there are more donors than members."""
        rule = f"must be at most ensemble.size={members}"
        require(self.donors <= members, "donors", self.donors, rule)

    def transfer(
        self,
        source: Ensemble,
        target: Task,
        seed: int = 0,
        recipes: Recipes = Recipes(),  # noqa: B008  # frozen
        fitter: Fitter = Fitter(),  # noqa: B008  # frozen
    ) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.strategies.transfer.Strategy`."""
        self.check(len(source))
        work = Transfer(source, target, seed, recipes, fitter)
        before = dict(work.encoders)
        donors = {member: before.pop(member) for member in range(self.donors)}
        donor_fits = work.fine_tune_fully(donors)
        ledger = Ledger(donor_fits.entries())

        vector = shift_vector(donors, donor_fits)
        shifted: dict[int, Weights] = {member: self._shifted(encoder, vector) for member, encoder in before.items()}
        if self.statistics == "reestimate":
            shifted = work.reestimate_statistics(shifted, ledger)
        starts = self._with_heads(shifted, donor_fits, work, ledger)
        tiny = work.fine_tune_tiny(starts)
        ledger.extend(tiny.entries())

        ensemble = work.ensemble((*donor_fits.weights, *tiny.weights), self.name)
        return TransferResult(ensemble, ledger, tiny.members, self._artefact(vector, source, target), shifted)

    def _shifted(self, encoder: Weights, vector: Weights) -> dict[str, Tensor]:
        """Return ``encoder + scale * shift``, without the running statistics unless they are to be shifted."""
        moved = add_scaled(encoder, vector, self.scale)
        if self.statistics == "shift":
            return {k: v.clamp(min=0) if k.endswith("running_var") else v for k, v in moved.items()}
        return {name: encoder[name] if is_statistic(name) else tensor for name, tensor in moved.items()}

    def _with_heads(self, encoders: Mapping[int, Weights], donors: Fits, work: Transfer, ledger: Ledger) -> list[Start]:
        """Return the starts of the tiny fine-tuning, with the heads that the options ask for."""
        if self.head == "probe":
            return work.with_probed_heads(encoders, ledger)
        starts = work.with_fresh_heads(encoders, "tiny")
        if self.head == "fresh":
            return starts
        givers = [donors.weights[start.member % self.donors] for start in starts]
        return [
            replace(start, weights=joined(encoder=encoders[start.member], head=below(giver, "head")))
            for start, giver in zip(starts, givers, strict=True)
        ]

    def _artefact(self, vector: Weights, source: Ensemble, target: Task) -> ShiftVector:
        provenance = {
            "donors": ",".join(map(str, range(self.donors))),
            "source_ensemble": source.fingerprint,
            "target_task": target.fingerprint,
            "target": target.name,
        }
        return ShiftVector(vector, self.scale, provenance)


def shift_vector(before: Mapping[int, Weights], donors: Fits) -> dict[str, Tensor]:
    """Return the mean over donors of ``encoder after full fine-tuning - encoder before``."""
    after = [below(weights, "encoder") for weights in donors.weights]
    return mean([subtract(a, before[m]) for a, m in zip(after, donors.members, strict=True)])
