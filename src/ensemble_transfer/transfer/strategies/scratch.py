"""Strategy ``scratch``: the target task alone, without any transfer."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult


@dataclass(frozen=True)
class Scratch:
    """Train every member from random weights on the target task, with the recipe of full fine-tuning.

    The members are of independent lineage, whatever that of the source ensemble is.
    """

    name: ClassVar[str] = "scratch"

    def check(self, members: int) -> None:
        """Accept an ensemble of any size."""

    def transfer(
        self,
        source: Ensemble,
        target: Task,
        seed: int = 0,
        recipes: Recipes = Recipes(),  # noqa: B008  # frozen
        fitter: Fitter = Fitter(),  # noqa: B008  # frozen
    ) -> TransferResult:
        """Return the transferred ensemble; see :class:`~ensemble_transfer.transfer.base.Strategy`."""
        work = Transfer(source, target, seed, recipes, fitter)
        fits = work.train_from_scratch()
        ensemble = replace(work.ensemble(fits.weights, self.name), lineage="independent")
        return TransferResult(ensemble, Ledger(fits.entries()), fits.members)
