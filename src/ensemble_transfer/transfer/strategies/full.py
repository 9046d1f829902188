"""Strategy ``full``: the traditional approach; ``lp_ft`` is the same from a probed head."""

from dataclasses import dataclass

from ensemble_transfer.errors import require
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult

HEADS = ("fresh", "probe")


@dataclass(frozen=True)
class Full:
    """Fine-tune every member fully on the target task.

    Attributes:
        head: Where heads start: ``fresh`` is random, ``probe`` trains a new one on frozen features first (LP-FT; Kumar
            et al. 2022, arXiv 2202.10054).
    """

    head: str = "fresh"

    def __post_init__(self) -> None:
        require(self.head in HEADS, "head", self.head, f"must be one of {', '.join(HEADS)}")

    @property
    def name(self) -> str:
        """``full``, or ``lp_ft`` from a probed head."""
        return "full" if self.head == "fresh" else "lp_ft"

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
        if self.head == "probe":
            fits = work.fit_fully(work.with_probed_heads(work.encoders, ledger, "full"))
        else:
            fits = work.fine_tune_fully(work.encoders)
        ledger.extend(fits.entries())
        return TransferResult(work.ensemble(fits.weights, self.name), ledger, fits.members)
