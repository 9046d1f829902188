"""What every strategy takes, gives and has in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Cost, Entry, Ledger, Meter, mean_cost, measured
from ensemble_transfer.training.features import reestimated_statistics
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.flops import encode_flops
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.transfer.shift.vector import ShiftVector
from ensemble_transfer.weights import Weights, below, floating, joined, mean


@dataclass(frozen=True)
class TransferResult:
    """What a strategy gives.

    Attributes:
        ensemble: The transferred ensemble, its members in the order of the source ensemble's.
        ledger: What the transfer cost, by phase and member.
        recipients: Members that a further member would be like.
        shift: The shift vector, of a strategy that has one.
        shifted: Encoders of its recipients after the shift, before any fine-tuning.
        donor_heads: The first donor's fine-tuned head, by recipient, in the coordinates of that recipient's features.
    """

    ensemble: Ensemble
    ledger: Ledger
    recipients: tuple[int, ...]
    shift: ShiftVector | None = None
    shifted: Mapping[int, Weights] = field(default_factory=dict)
    donor_heads: Mapping[int, Weights] = field(default_factory=dict)

    def marginal(self) -> Cost | None:
        """Return the cost of one more member, the mean over recipients; None where every member is a donor."""
        costs = [self.ledger.of_member(member) for member in self.recipients]
        return mean_cost(costs) if costs else None


class Strategy(Protocol):
    """A way to move an ensemble to a target task: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """The name that records and comparisons call it by."""

    def check(self, members: int) -> None:
        """Raise a SettingError if the options do not suit an ensemble of this size."""

    def transfer(
        self, source: Ensemble, target: Task, seed: int = ..., recipes: Recipes = ..., fitter: Fitter = ...
    ) -> TransferResult:
        """Return the transferred ensemble and what it cost; the source ensemble stays as it is.

        Args:
            source: The ensemble, trained on the source task.
            target: The task that it is wanted on.
            seed: Of all that is random; a member's randomness depends on this and its index alone.
            recipes: What the fits may spend.
            fitter: Where and how fits are computed and remembered.
        """


@dataclass(frozen=True)
class Transfer:
    """One transfer at work: its inputs, and the steps that strategies share."""

    source: Ensemble
    target: Task
    seed: int
    recipes: Recipes
    fitter: Fitter

    @cached_property
    def architecture(self) -> Architecture:
        """The members' architecture with a head for the target's classes."""
        return self.source.architecture.with_classes(len(self.target.classes))

    @cached_property
    def encoders(self) -> dict[int, Weights]:
        """The source ensemble's encoders, by member."""
        return {index: below(member, "encoder") for index, member in enumerate(self.source.members)}

    def with_fresh_heads(self, encoders: Mapping[int, Weights], phase: str) -> list[Start]:
        """Return starts for a phase with new random heads, which depend on the seed and the member alone."""
        return [
            Start(
                member,
                joined(encoder=encoder, head=self.architecture.fresh_head(derive(self.seed, "head", member))),
                derive(self.seed, phase, member),
            )
            for member, encoder in encoders.items()
        ]

    def fine_tune_fully(self, encoders: Mapping[int, Weights], steps: int | None = None) -> Fits:
        """Fine-tune members fully from new heads: the one definition, so that a donor is a member of ``full``.

        Args:
            encoders: Encoders by member.
            steps: Steps instead of the recipe's; its schedule is fitted to them.
        """
        recipe = self.recipes.full if steps is None else replace(self.recipes.full, steps=steps)
        return self.fit_fully(self.with_fresh_heads(encoders, "full"), recipe)

    def fit_fully(self, starts: Sequence[Start], recipe: Recipe | None = None) -> Fits:
        """Fine-tune members fully from given starts."""
        recipe = recipe or self.recipes.full
        return self.fitter.fit(self.architecture, starts, self.target.train, recipe, "full")

    def probe(self, starts: Sequence[Start], phase: str = "probe") -> Fits:
        """Train heads on frozen features before a tiny fine-tuning, or to diagnose, as the name of the phase says."""
        reseeded = [replace(start, seed=derive(self.seed, "probe", start.member)) for start in starts]
        return self.fitter.fit_heads(self.architecture, reseeded, self.target.train, self.recipes.probe, phase)

    def with_probed_heads(self, encoders: Mapping[int, Weights], ledger: Ledger, phase: str = "tiny") -> list[Start]:
        """Return the starts of a phase with heads probed on frozen features; the cost goes to the ledger."""
        starts = self.with_fresh_heads(encoders, phase)
        probed = self.probe(starts)
        ledger.extend(probed.entries())
        return [replace(start, weights=w) for start, w in zip(starts, probed.weights, strict=True)]

    def train_heads(self, encoders: Mapping[int, Weights]) -> Fits:
        """Train new heads on frozen features, where that is all."""
        starts = self.with_fresh_heads(encoders, "head")
        return self.fitter.fit_heads(self.architecture, starts, self.target.train, self.recipes.head, "head")

    def train_from_scratch(self) -> Fits:
        """Train as many members as the ensemble has from random weights, with the recipe of full fine-tuning."""
        starts = [
            Start(
                member,
                self.architecture.initial(derive(self.seed, "scratch", member)),
                derive(self.seed, "full", member),
            )
            for member in range(len(self.source))
        ]
        return self.fitter.fit(self.architecture, starts, self.target.train, self.recipes.full, "scratch")

    def validation_accuracy(self, members: Sequence[Weights]) -> float:
        """Return the members' accuracy on the target's validation images, the mean over them."""
        split = self.target.validation
        probabilities = self.ensemble(members, "validation").predict(split.images, self.fitter.settings.device)
        return float((probabilities.argmax(-1) == split.labels).double().mean())

    def soup(self, members: Sequence[Weights]) -> dict[str, Tensor]:
        """Return the mean of members' weights, with BatchNorm statistics of the target's training data.

        One network for the price of one (model soups; Wortsman et al. 2022, arXiv 2203.05482). Integer tensors, of
        which there is no mean, are the first member's.
        """
        mixed = dict(members[0]) | mean([floating(member) for member in members])
        encoder = self.reestimate_statistics({0: below(mixed, "encoder")}, Ledger())[0]
        return joined(encoder=encoder, head=below(mixed, "head"))

    def reestimate_statistics(self, encoders: Mapping[int, Weights], ledger: Ledger) -> dict[int, Weights]:
        """Return the encoders with BatchNorm statistics of the target's training data; the cost goes to the ledger."""
        device, images = self.fitter.settings.device, self.target.train.images
        done: dict[int, Weights] = {}
        for member, encoder in encoders.items():
            with measured(device) as meter:
                done[member] = reestimated_statistics(self.architecture, encoder, images, device)
            ledger.extend([self.encoding("statistics", member, len(images), meter)])
        return done

    def encoding(self, phase: str, member: int, examples: int, meter: Meter) -> Entry:
        """Return the ledger's entry of a phase that encoded examples once each, without training."""
        cost = Cost(
            examples=examples,
            flops=examples * encode_flops(self.architecture),
            seconds=meter.seconds,
            cpu_seconds=meter.cpu_seconds,
            peak_memory_bytes=meter.peak_memory_bytes,
        )
        return Entry(phase, member, cost)

    def fine_tune_tiny(self, starts: Sequence[Start]) -> Fits:
        """Give members a tiny fine-tuning."""
        return self.fitter.fit(self.architecture, starts, self.target.train, self.recipes.tiny, "tiny")

    def ensemble(self, members: Sequence[Weights], strategy: str) -> Ensemble:
        """Return the transferred ensemble from its members' weights."""
        history = dict(self.source.history) | {"source_ensemble": self.source.fingerprint}
        history |= {"strategy": strategy, "target": self.target.name}
        return Ensemble(self.architecture, tuple(members), self.target.classes, self.source.lineage, history)
