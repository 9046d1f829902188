"""Strategy ``tiny``: the control without a shift."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult


@dataclass(frozen=True)
class Tiny:
    """Give every member what a recipient of ``shift`` gets, without the shift: statistics, probe, tiny fine-tuning."""

    name: ClassVar[str] = "tiny"

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
        ledger = Ledger()
        encoders = work.reestimate_statistics(work.encoders, ledger)
        fits = work.fine_tune_tiny(work.with_probed_heads(encoders, ledger))
        ledger.extend(fits.entries())
        return TransferResult(work.ensemble(fits.weights, self.name), ledger, fits.members)
