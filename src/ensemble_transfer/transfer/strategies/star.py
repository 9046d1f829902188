"""Strategy ``star``: recipients start from the fine-tuned donor itself."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.seeding import derive
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult


@dataclass(frozen=True)
class Star:
    """Fine-tune donors fully, then give copies of them a tiny fine-tuning each, in an order of examples of its own.

    What StarSSE does with one pre-trained network (Sadrtdinov et al. 2023, arXiv 2303.03374); the other members of the
    source ensemble are not used.

    Attributes:
        donors: Number of members that are fully fine-tuned, the first ones; recipients start from them in turns.
    """

    name: ClassVar[str] = "star"

    donors: int = 1

    def __post_init__(self) -> None:
        require(self.donors > 0, "donors", self.donors, "must be at least 1")

    def check(self, members: int) -> None:
        """Raise a SettingError if there are more donors than members."""
        require(self.donors <= members, "donors", self.donors, f"must be at most ensemble.size={members}")

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
        work = Transfer(source, target, seed, recipes, fitter)
        donors = work.fine_tune_fully({member: work.encoders[member] for member in range(self.donors)})
        starts = [
            Start(member, donors.weights[member % self.donors], derive(seed, "tiny", member))
            for member in range(self.donors, len(source))
        ]
        tiny = work.fine_tune_tiny(starts)
        ledger = Ledger([*donors.entries(), *tiny.entries()])
        return TransferResult(work.ensemble((*donors.weights, *tiny.weights), self.name), ledger, tiny.members)
