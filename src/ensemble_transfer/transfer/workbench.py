"""The workbench, on which strategies do their work and are billed for it, and the result of a transfer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor

from ensemble_transfer.errors import require
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.models.sizes import encoder_at
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Cost, Entry, Ledger, Meter, mean_cost, measured
from ensemble_transfer.training.features import reestimated_statistics, statistics_images
from ensemble_transfer.training.fit import Fits, Fitter, Start
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.store import Fitted
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.weights import Weights, below, fingerprint, floating, joined, mean

CHOICES = ("choice", "scale search")
"""Phases in which something is chosen on the target's validation images."""


@dataclass(frozen=True)
class TransferResult:
    """The result of a transfer.

    Attributes:
        ensemble: The transferred ensemble.
        ledger: Cost by phase and member.
        recipients: Indices of the members, in the ledger, that show what one more member costs.
        decisions: Decisions of the strategy, as plain data for the record.
    """

    ensemble: Ensemble
    ledger: Ledger
    recipients: tuple[int, ...]
    decisions: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def marginal(self) -> Cost | None:
        """Return the cost of one more member, the mean over recipients; None where every member is a donor."""
        costs = [self.ledger.of_member(member) for member in self.recipients]
        return mean_cost(costs) if costs else None

    def diagnose(self, bench: "Workbench") -> tuple[dict[str, float], dict[str, Any]]:
        """Measure how the strategy worked; return metrics and curves. By default there are none.

        Args:
            bench: An unbilled workbench, since a diagnosis is no part of the transfer.
        """
        del bench
        return {}, {}

    def save(self, folder: Path) -> None:
        """Write further files, such as a shift vector, into a run's folder. By default there are none."""


@dataclass(frozen=True, repr=False)
class Workbench:
    """One transfer: its inputs, the steps that strategies share, and the ledger that these steps are billed to.

    Work that the rest of the budget does not pay for is refused before it is done.

    Attributes:
        source: The ensemble, trained on the source task.
        target: The target task.
        seed: Seed of all randomness.
        recipes: Optimizers, schedules and steps of the fits.
        fitter: Computes fits and caches them.
        budget: Maximum cost of the transfer, in fine-tunings; None to use the recipes unchanged.
        ledger: Cost so far.
        strategy: Name of the strategy, for errors.
        about: What the strategy does, in a line, for the ensemble's history.
        billed_to: Phase and member that all work is billed to; None for each to its own.
        image_size: Image size of the work, in pixels; None for that of the dataset.
    """

    source: Ensemble
    target: Task
    seed: int = 0
    recipes: Recipes = field(default_factory=Recipes)
    fitter: Fitter = field(default_factory=Fitter)
    budget: float | None = None
    ledger: Ledger = field(default_factory=Ledger)
    strategy: str = "strategy"
    about: str = ""
    billed_to: tuple[str, int | None] | None = None
    image_size: int | None = None

    def __repr__(self) -> str:
        what = f"{self.source!r} -> {self.target!r}, seed={self.seed}, budget={self.budget}"
        return f"Workbench({what}, {self.fitter!r}, {self.ledger!r})"

    def unbilled(self) -> "Workbench":
        """Return the same workbench with an empty ledger and no budget, for work that is no part of the transfer."""
        return replace(self, ledger=Ledger(), budget=None, billed_to=None)

    def at(self, size: int | None) -> "Workbench":
        """Return the same workbench, with the same ledger, for work at an image size; None for the one that it has.

        Its target, encoders, architecture and prices are those of the size. What it makes are members of that size.
        """
        if size is None or size == self.architecture.image_size:
            return self
        return replace(self, target=self.target.at(size), image_size=size)

    def billing(self, phase: str, member: int | None = None) -> "Workbench":
        """Return the same workbench, with the same ledger, whose work is all billed to one phase and member."""
        return replace(self, billed_to=(phase, member))

    @property
    def left(self) -> float:
        """What is left of the budget, in FLOPs; infinite without a budget."""
        return inf if self.prices.limit is None else self.prices.limit - self.ledger.total().flops

    def require_left(self, price: int, phase: str) -> None:
        """Refuse work that the rest of the budget does not pay for.

        Args:
            price: Of the work, in FLOPs.
            phase: Phase that it will be billed to.

        Raises:
            SettingError: If it costs more than is left.
        """
        unit, left = self.prices.unit, self.left
        rule = f"leaves {left / unit:.3g} fine-tunings, and phase {phase!r} of {self.strategy} takes {price / unit:.3g}"
        require(price <= left, "budget", self.budget, rule)

    def stream(self, *names: str | int) -> int:
        """Return the seed of a random stream, named by its purpose, such as ``("tiny", member)``."""
        return derive(self.seed, *names)

    @cached_property
    def prices(self) -> Prices:
        """Prices of the work on this target, and the budget."""
        prices = Prices.of(self.source.architecture, self.target, self.recipes, len(self.source), self.budget)
        return prices.at(self.architecture.image_size)

    @cached_property
    def architecture(self) -> Architecture:
        """The members' architecture at the image size of the work, with a head for the target's classes."""
        whole = self._stored
        return whole if self.image_size is None else whole.at(self.image_size)

    @property
    def _stored(self) -> Architecture:
        return self.source.architecture.with_classes(len(self.target.classes))

    @cached_property
    def encoders(self) -> dict[int, Weights]:
        """The source ensemble's encoders, by member; those that depend on the image size are of that of the work."""
        own, size = self.source.architecture, self.architecture.image_size
        return {i: encoder_at(below(member, "encoder"), own, size) for i, member in enumerate(self.source.members)}

    def first_encoders(self, members: int) -> dict[int, Weights]:
        """Return the encoders of the first members."""
        return {member: self.encoders[member] for member in range(members)}

    def with_fresh_heads(self, encoders: Mapping[int, Weights], phase: str) -> list[Start]:
        """Return starts of a phase with new random heads, which depend on the seed and the member alone."""
        return [
            Start(
                member,
                joined(encoder=encoder, head=self.architecture.fresh_head(self.stream("head", member))),
                self.stream(phase, member),
            )
            for member, encoder in encoders.items()
        ]

    def with_probed_heads(self, encoders: Mapping[int, Weights], phase: str = "tiny") -> list[Start]:
        """Train heads on frozen features, and return starts of a phase with them."""
        starts = self.with_fresh_heads(encoders, phase)
        return [replace(s, weights=w) for s, w in zip(starts, self.probe(starts).weights, strict=True)]

    def fine_tune_fully(self, encoders: Mapping[int, Weights], recipe: Recipe | None = None) -> Fits:
        """Fine-tune members fully, from new heads. A donor is thus the same fit as a member of ``full``.

        Args:
            encoders: Encoders by member.
            recipe: Recipe to use; by default ``recipes.full``.
        """
        return self.fit(self.with_fresh_heads(encoders, "full"), recipe or self.recipes.full, "full")

    def fine_tune_in(self, members: Sequence[int], steps: Sequence[int], sizes: Sequence[int] | None = None) -> Fits:
        """Fine-tune members fully, each for its own number of steps and at its own image size.

        Args:
            members: Indices of the members.
            steps: Steps of each.
            sizes: Image size of each; by default that of the work.
        """
        own = list(zip(sizes or [self.architecture.image_size] * len(members), steps, strict=True))
        done: dict[int, Fitted] = {}
        for size, length in dict.fromkeys(own):
            bench = self.at(size)
            chosen = {m: bench.encoders[m] for m, wanted in zip(members, own, strict=True) if wanted == (size, length)}
            starts = bench.with_fresh_heads(chosen, "full")
            fits = bench.fit(starts, replace(self.recipes.full, steps=length), "full")
            done |= zip(fits.members, fits.fitted, strict=True)
        return Fits("full", tuple(members), tuple(done[member] for member in members))

    def fit(self, starts: Sequence[Start], recipe: Recipe, phase: str, heads: bool = False) -> Fits:
        """Train members on the target from given starts, or their heads on frozen features, and bill it.

        Progress and learning curves name what it is billed to.
        """
        require(recipe.steps > 0 or not starts, "steps", recipe.steps, f"must be at least 1 in phase {phase!r}")
        price = self.prices.train_head(recipe) if heads else self.prices.fit(recipe)
        self.require_left(len(starts) * price, phase)
        told = phase if self.billed_to is None else self.billed_to[0]
        with self.recipes.naming(recipe, phase):
            fits = self.fitter.fit(self.architecture, starts, self.target, recipe, told, heads)
        self.bill(fits.entries())
        return fits

    def probe(self, starts: Sequence[Start], phase: str = "probe") -> Fits:
        """Train heads on frozen features, before a fine-tuning or for a diagnosis, and bill them to a phase."""
        reseeded = [replace(start, seed=self.stream("probe", start.member)) for start in starts]
        return self.fit(reseeded, self.recipes.probe, phase, heads=True)

    def reestimate_statistics(self, encoders: Mapping[int, Weights]) -> dict[int, Weights]:
        """Estimate BatchNorm statistics on some of the target's training images, and return the encoders with them.

        They stay as they are where full fine-tuning keeps them too.
        """
        if not self.architecture.has_statistics or self.recipes.keeps_statistics:
            return dict(encoders)
        self.require_left(len(encoders) * self.prices.statistics, "statistics")
        device, done = self.fitter.settings.device, dict[int, Weights]()
        images = self._statistics_images
        for member, encoder in encoders.items():
            with measured(device) as meter:
                done[member] = reestimated_statistics(self.architecture, encoder, images, device)
            self.bill_encoding("statistics", member, len(images), meter)
        return done

    @cached_property
    def _statistics_images(self) -> Tensor:
        return statistics_images(self.target.train.images, self.recipes.statistics, self.stream("statistics"))

    def look(self, members: Sequence[Weights], phase: str = "choice") -> Tensor:
        """Predict the target's validation images, billed to a phase: (members, examples, classes)."""
        split, device = self.target.validation, self.fitter.settings.device
        self.require_left(len(members) * self.prices.look, phase)
        ensemble = Ensemble(self.architecture, tuple(members), self.target.classes)
        with measured(device) as meter:
            probabilities = ensemble.predict(split.images, device)
        self.bill_encoding(phase, None, len(ensemble.by_encoder) * len(split), meter)
        return probabilities

    def soup(self, members: Sequence[Weights]) -> dict[str, Tensor]:
        """Average members' weights into one network, and estimate its BatchNorm statistics on the target.

        This is a model soup (Wortsman et al. 2022, arXiv 2203.05482). Integer tensors are the first member's. An
        encoder that all members have in common, as heads on one have, stays as it is.
        """
        mixed = dict(members[0]) | mean([floating(member) for member in members])
        encoder: Weights = below(members[0], "encoder")
        if len({fingerprint(below(member, "encoder")) for member in members}) > 1:
            encoder = self.reestimate_statistics({0: below(mixed, "encoder")})[0]
        return joined(encoder=encoder, head=below(mixed, "head"))

    def bill_encoding(self, phase: str, member: int | None, examples: int, meter: Meter) -> None:
        """Bill a phase that encoded each example once, without training; None for a member is for no single one."""
        cost = Cost(
            examples=examples,
            flops=examples * encode_flops(self.architecture),
            seconds=meter.seconds,
            cpu_seconds=meter.cpu_seconds,
            peak_memory_bytes=meter.peak_memory_bytes,
        )
        self.bill([Entry(phase, member, cost)])

    def bill(self, entries: Sequence[Entry]) -> None:
        """Enter work into the ledger."""
        if self.billed_to is not None:
            phase, member = self.billed_to
            entries = [replace(entry, phase=phase, member=member) for entry in entries]
        self.ledger.entries.extend(entries)

    def ensemble(self, members: Sequence[Weights], strategy: str, sizes: Sequence[int] = ()) -> Ensemble:
        """Build the transferred ensemble from its members' weights, which have the image size of the work or ``sizes``.

        It takes images of the dataset's size.
        """
        history = dict(self.source.history)
        if "source" in history:  # the name of the source task
            history["source_ensemble"] = self.source.fingerprint
        history |= {"strategy": strategy, "about": self.about, "target": self.target.name}
        if any(entry.phase in CHOICES for entry in self.ledger.entries):
            history["chosen_on"] = "validation"
        of_each = tuple(sizes) or (self.architecture.image_size,) * len(members)
        about = self.target.classes, self.source.lineage, history
        return Ensemble(self._stored, tuple(members), *about, of_each)

    def result(
        self, strategy: str, members: Sequence[Weights], recipients: Sequence[int], sizes: Sequence[int] = ()
    ) -> TransferResult:
        """Build the result of a strategy whose only output is its members.

        Args:
            strategy: Name of the strategy.
            members: Weights of the transferred members.
            recipients: Indices of the members that show what one more member costs.
            sizes: Image sizes of the members; by default that of the work.
        """
        return TransferResult(self.ensemble(members, strategy, sizes), self.ledger, tuple(recipients))
