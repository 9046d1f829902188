"""What work on a target task costs, known before anything is trained, and how a budget is shared out.

The unit of a budget is the **full**: one full fine-tuning of one member by ``recipe.full``, in FLOPs.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.flops import encode_flops, head_flops, step_flops
from ensemble_transfer.training.recipe import Recipe, Recipes


@dataclass(frozen=True)
class Prices:
    """Prices in FLOPs, forward and backward, of what strategies do with one member.

    Attributes:
        architecture: Of the members, with a head for the target's classes.
        recipes: What fits may spend.
        examples: Training images of the target.
        validation: Validation images of the target.
        members: Members of the source ensemble.
        budget: What the transfer may spend, in fulls; None where the recipes stand as they are.
    """

    architecture: Architecture
    recipes: Recipes
    examples: int
    validation: int
    members: int
    budget: float | None = None

    @classmethod
    def of(
        cls, architecture: Architecture, target: Task, recipes: Recipes, members: int, budget: float | None
    ) -> "Prices":
        """Return the prices of a target task for members of an architecture with a head of any size."""
        suited = architecture.with_classes(len(target.classes))
        return cls(suited, recipes, len(target.train), len(target.validation), members, budget)

    @cached_property
    def step(self) -> int:
        """An optimizer step of a full fine-tuning."""
        return self.fit(replace(self.recipes.full, steps=1))

    @property
    def full(self) -> int:
        """One full: a full fine-tuning by the recipe."""
        return self.fit(self.recipes.full)

    @property
    def tiny(self) -> int:
        """A tiny fine-tuning by the recipe."""
        return self.fit(self.recipes.tiny)

    @property
    def probe(self) -> int:
        """A new head on frozen features, before a fine-tuning."""
        return self.train_head(self.recipes.probe)

    @property
    def head(self) -> int:
        """A new head on frozen features, where that is all."""
        return self.train_head(self.recipes.head)

    @property
    def statistics(self) -> int:
        """BatchNorm statistics, estimated anew on the training images."""
        return self.encode(self.examples)

    @property
    def look(self) -> int:
        """The predictions for the validation images, which a choice on validation needs."""
        return self.encode(self.validation)

    def fit(self, recipe: Recipe) -> int:
        """Return the price of training a whole member by a recipe."""
        return recipe.steps * min(recipe.batch_size, self.examples) * step_flops(self.architecture)

    def train_head(self, recipe: Recipe) -> int:
        """Return the price of training a head by a recipe, its features included."""
        shown = self.examples * recipe.views
        operations = head_flops(self.architecture.features, self.architecture.classes)
        return recipe.steps * min(recipe.batch_size, shown) * operations + self.encode(shown)

    def encode(self, examples: int) -> int:
        """Return the price of encoding examples once each."""
        return examples * encode_flops(self.architecture)

    @property
    def limit(self) -> int | None:
        """The budget in FLOPs; None without one."""
        return None if self.budget is None else int(self.budget * self.full)

    def steps(self, flops: int, parts: int) -> list[int]:
        """Share FLOPs out among equal parts, as steps of full fine-tuning; the first parts get what is left over.

        Raises:
            SettingError: If a part would get no step.
        """
        share, rest = divmod(flops // self.step, parts)
        self.require(share > 0, f"{parts} fine-tunings of a step each", parts * self.step)
        return [share + 1] * rest + [share] * (parts - rest)

    def cycles(self, first: float, later: float, most: int) -> list[int]:
        """Return the steps of the cycles that a budget pays for; one full without a budget.

        Args:
            first: Length of the first cycle, in fulls.
            later: Length of the others, in fulls. As many as fit, all stretched alike to use the budget up.
            most: Cycles at most.

        Raises:
            SettingError: If the budget does not pay for one step.
        """
        total = (self.full if self.limit is None else self.limit) // self.step
        self.require(total > 0, "one step of fine-tuning", self.step)
        fulls = total * self.step / self.full
        count = max(0, min(most - 1, int((fulls - first) / later + 1e-9)))
        steps = int(total * later / (first + count * later))
        return [total - count * steps, *[steps] * count] if steps else [total]

    def affordable(self, price: int, most: int, what: str) -> int:
        """Return how many things of one price the budget pays, at most ``most``.

        Raises:
            SettingError: If it does not pay for one.
        """
        if self.limit is None:
            return most
        self.require(self.limit >= price, what, price)
        return min(most, self.limit // price)

    def scaled(self, fixed: int, schedules: int, what: str) -> float:
        """Return the factor that brings schedules into the budget; 1 without a budget.

        Args:
            fixed: What is spent whatever the schedules are, in FLOPs.
            schedules: What the schedules take as the recipes say, in FLOPs.
            what: What it is for, for the error.

        Raises:
            SettingError: If nothing is left for the schedules.
        """
        if self.limit is None:
            return 1.0
        self.require(self.limit >= fixed + self.step, what, fixed + self.step)
        return (self.limit - fixed) / schedules if schedules else 1.0

    def require(self, affordable: bool, what: str, price: int) -> None:
        """Raise a SettingError that names a price which the budget does not pay, unless it does."""
        if not affordable:
            rule = f"does not pay for {what}, which takes {price / self.full:.3g} fulls"
            raise SettingError("budget", self.budget, rule)


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """Return a recipe with a schedule that is this many times as long, in whole steps, rounded down."""
    return replace(recipe, steps=int(factor * recipe.steps + 1e-9))
