"""Strategy ``matched``: full fine-tuning with no more compute than ``shift`` would take, the honest rival."""

from dataclasses import dataclass
from typing import ClassVar

from ensemble_transfer.errors import require
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.flops import encode_flops, head_flops, step_flops
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.base import Transfer, TransferResult
from ensemble_transfer.weights import Weights


@dataclass(frozen=True)
class Matched:
    """Fine-tune every member fully, with what ``shift`` in its default form spends on all.

    Each member gets an equal share, in whole steps, and a schedule of that length; the steps that do not divide
    evenly go to the first members. So the total is at most one step below that of ``shift``.

    Attributes:
        donors: Number of donors that ``shift`` would have.
        equal: What is matched: ``flops``, or optimizer ``steps`` of networks (the head's alone do not count).
    """

    name: ClassVar[str] = "matched"

    donors: int = 1
    equal: str = "flops"

    def __post_init__(self) -> None:
        require(self.equal in ("flops", "steps"), "equal", self.equal, "must be flops or steps")
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
        share, rest = divmod(self._steps(work), len(source))
        ledger, members = Ledger(), dict[int, Weights]()
        for steps, chosen in ((share + 1, range(rest)), (share, range(rest, len(source)))):
            fits = work.fine_tune_fully({member: work.encoders[member] for member in chosen}, steps)
            ledger.extend(fits.entries())
            members |= zip(fits.members, fits.weights, strict=True)
        return TransferResult(work.ensemble(list(members.values()), self.name), ledger, tuple(members))

    def _steps(self, work: Transfer) -> int:
        """Return the steps of all members together."""
        recipes = work.recipes
        if self.equal == "steps":
            return self.donors * recipes.full.steps + (len(work.source) - self.donors) * recipes.tiny.steps
        batch = min(recipes.full.batch_size, len(work.target.train))
        return shift_flops(work, self.donors) // (batch * step_flops(work.architecture))


def shift_flops(work: Transfer, donors: int) -> int:
    """Return the operations of ``shift`` with probed heads and re-estimated statistics, by its recipes."""
    examples, recipes, architecture = len(work.target.train), work.recipes, work.architecture
    step, encode = step_flops(architecture), encode_flops(architecture)
    full = recipes.full.steps * min(recipes.full.batch_size, examples) * step
    tiny = recipes.tiny.steps * min(recipes.tiny.batch_size, examples) * step
    head = head_flops(architecture.features, architecture.classes)
    shown = examples * recipes.probe.views
    probe = recipes.probe.steps * min(recipes.probe.batch_size, shown) * head + shown * encode
    statistics = examples * encode
    return donors * full + (len(work.source) - donors) * (statistics + probe + tiny)
