"""Strategy ``head``: only the heads are trained."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult


@dataclass(frozen=True)
class HeadOnly:
    """Freeze the encoders, BatchNorm statistics included, and train new heads on their features."""

    name: ClassVar[str] = "head"

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
        fits = work.train_heads(work.encoders)
        return TransferResult(work.ensemble(fits.weights, self.name), Ledger(fits.entries()), fits.members)
