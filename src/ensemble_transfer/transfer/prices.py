"""Compute prices of work on a target task before anything is trained, and divide a budget.

The unit of a budget is the **fine-tuning**: the FLOPs of one full fine-tuning of one member by ``recipe.full``, at the
image size of the recipe. So work at several image sizes is counted in one unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import floor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.spec import fit_flops

FIXED = 0.25
"""Maximum share of a budget for statistics and probes of shifted members. The rest pays for fine-tuning."""


@dataclass(frozen=True)
class Prices:
    """Prices of the steps of a transfer for one member, in FLOPs of forward and backward passes.

    Attributes:
        architecture: Architecture of the members, with a head for the target's classes, at the image size of the work.
        recipes: Optimizers, schedules and steps of the fits.
        examples: Number of the target's training images.
        validation: Number of the target's validation images.
        members: Number of members of the source ensemble.
        budget: Maximum cost of the transfer, in fine-tunings; None to use the recipes unchanged.
        stored: Image size of the dataset, in pixels; None for that of the architecture.
    """

    architecture: Architecture
    recipes: Recipes
    examples: int
    validation: int
    members: int
    budget: float | None = None
    stored: int | None = None

    @classmethod
    def of(
        cls, architecture: Architecture, target: Task, recipes: Recipes, members: int, budget: float | None
    ) -> "Prices":
        """Return the prices for a target task. The architecture may have a head of any size."""
        suited = architecture.with_classes(len(target.classes))
        return cls(suited, recipes, len(target.train), len(target.validation), members, budget)

    def at(self, size: int | None) -> "Prices":
        """Return the prices, in the same unit, of work at another image size; None for the one that they are for."""
        if size is None or size == self.architecture.image_size:
            return self
        return replace(self, architecture=self.architecture.at(size), stored=self.image_size)

    @property
    def image_size(self) -> int:
        """Image size of the dataset, in pixels."""
        return self.stored or self.architecture.image_size

    @cached_property
    def unit(self) -> int:
        """One **fine-tuning**: the price of a full fine-tuning of one member at the image size of the recipe."""
        size = self.recipes.image_size or self.image_size
        try:
            return fit_flops(self.architecture.at(size), self.recipes.full, self.examples, heads=False)
        except SettingError as error:
            rule = f"must be a size that {self.architecture.backbone} takes, or null for dataset.image_size"
            raise SettingError("recipe.image_size", size, f"{rule}: {error.rule}") from error

    @cached_property
    def step(self) -> int:
        """Price of one step of full fine-tuning."""
        return self.fit(replace(self.recipes.full, steps=1))

    @property
    def full(self) -> int:
        """Price of a full fine-tuning of one member; at the image size of the recipe this is :attr:`unit`."""
        return self.fit(self.recipes.full)

    @property
    def tiny(self) -> int:
        """Price of a tiny fine-tuning."""
        return self.fit(self.recipes.tiny)

    @property
    def probe(self) -> int:
        """Price of training a head on frozen features before a fine-tuning."""
        return self.train_head(self.recipes.probe)

    @property
    def head(self) -> int:
        """Price of training a head on frozen features, without any fine-tuning after it."""
        return self.train_head(self.recipes.head)

    @property
    def statistics(self) -> int:
        """Price of estimating BatchNorm statistics on training images; 0 where there are none, or they are kept."""
        if not self.architecture.has_statistics or self.recipes.keeps_statistics:
            return 0
        images = min(self.recipes.statistics or self.examples, self.examples)
        return self.encode(images)

    @property
    def look(self) -> int:
        """Price of predicting the validation images, for a choice on validation."""
        return self.encode(self.validation)

    def fit(self, recipe: Recipe) -> int:
        """Return the price of training a whole member by a recipe."""
        return fit_flops(self.architecture, recipe, self.examples, heads=False)

    def train_head(self, recipe: Recipe) -> int:
        """Return the price of training a head by a recipe, including the features."""
        return fit_flops(self.architecture, recipe, self.examples, heads=True)

    def encode(self, examples: int) -> int:
        """Return the price of encoding each example once."""
        return examples * encode_flops(self.architecture)

    @property
    def limit(self) -> int | None:
        """The budget in FLOPs; None without one."""
        return None if self.budget is None else round(Fraction(str(self.budget)) * self.unit)

    def steps(self, flops: int, parts: int) -> list[int]:
        """Divide FLOPs into equal numbers of steps of full fine-tuning. The first parts get the remainder.

        Raises:
            SettingError: If a part gets no step.
        """
        share, rest = divmod(flops // self.step, parts)
        self.require(share > 0, f"{parts} fine-tunings of a step each", parts * self.step)
        return [share + 1] * rest + [share] * (parts - rest)

    def shares(self, flops: int, sizes: Sequence[int]) -> list[int]:
        """Divide FLOPs evenly among members with these image sizes, and return the steps of each; see :meth:`steps`."""
        if len({*sizes}) == 1:
            return self.at(sizes[0]).steps(flops, len(sizes))
        prices = [self.at(size) for size in sizes]
        dearest = max(own.step for own in prices)
        share = flops // len(sizes)
        self.require(share >= dearest, f"{len(sizes)} fine-tunings of a step each", len(sizes) * dearest)
        return [share // own.step for own in prices]

    def cycles(self, first: float, later: float, most: int) -> list[int]:
        """Divide the budget into cycles, and return the steps of each. Without a budget they share one fine-tuning.

        There are as many cycles as fit. All are then stretched by the same factor to use the whole budget.

        Args:
            first: Length of the first cycle, in fine-tunings.
            later: Length of each further cycle, in fine-tunings.
            most: Maximum number of cycles.

        Raises:
            SettingError: If the budget does not pay for one step.
        """
        total = (self.unit if self.limit is None else self.limit) // self.step
        self.require(total > 0, "one step of fine-tuning", self.step)
        length = total * self.step / self.unit
        count = max(0, min(most - 1, int((length - first) / later + 1e-9)))
        steps = int(total * later / (first + count * later))
        return [total - count * steps, *[steps] * count] if steps else [total]

    def affordable(self, price: int, most: int, what: str) -> int:
        """Return how many items of a price the budget pays for, at most ``most``.

        Raises:
            SettingError: If it does not pay for one item.
        """
        if self.limit is None:
            return most
        self.require_limit(price, what)
        return min(most, self.limit // price)

    def scaled(self, fixed: int, schedules: int, what: str) -> Fraction:
        """Return the factor by which schedules are stretched to fit into the budget; 1 without a budget.

        Args:
            fixed: Cost that does not depend on the schedules, in FLOPs.
            schedules: Cost of the schedules of the recipes, in FLOPs.
            what: Description for the error.

        Raises:
            SettingError: If nothing is left for the schedules.
        """
        if self.limit is None:
            return Fraction(1)
        self.require_limit(fixed + self.step, what)
        return Fraction(self.limit - fixed, schedules) if schedules else Fraction(1)

    def require_limit(self, price: int, what: str) -> None:
        """Raise a SettingError that names the price, unless the budget pays for it or there is none."""
        self.require(self.limit is None or price <= self.limit, what, price)

    def require(self, affordable: bool, what: str, price: int) -> None:
        """Raise a SettingError that names the price, unless it is affordable."""
        if not affordable:
            rule = f"does not pay for {what}, which takes {price / self.unit:.3g} fine-tunings"
            raise SettingError("budget", self.budget, rule)


def stretched(recipe: Recipe, factor: Fraction) -> Recipe:
    """Multiply the steps of a recipe by a factor, rounded down; at least one is left."""
    return replace(recipe, steps=max(1, floor(factor * recipe.steps)))
