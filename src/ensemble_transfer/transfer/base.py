"""The interface of a strategy, and the entry point of a transfer."""

from typing import Protocol

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.ensemble import COPIES, UNTRAINED, Ensemble
from ensemble_transfer.tasks.task import Task
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.loss import check_class_weights
from ensemble_transfer.training.recipe import Recipes
from ensemble_transfer.transfer.budget import read_budget
from ensemble_transfer.transfer.prices import Prices
from ensemble_transfer.transfer.workbench import TransferResult, Workbench

ROLES = ("method", "rival", "reference", "control")
"""What a strategy is in a comparison.

A ``method`` is what a comparison is about. A ``rival`` is plain fine-tuning for the same compute: the best one at a
budget is what methods are held against. The ``reference`` says what an ensemble is worth. A ``control`` shows what a
method's ingredient does.
"""


class Strategy(Protocol):
    """Interface of a strategy: a frozen dataclass that transfers an ensemble, and whose fields are its options."""

    @property
    def name(self) -> str:
        """Name in records and comparisons."""

    @property
    def about(self) -> str:
        """What it does, in one line: the first line of its YAML, and in records and model cards."""

    @property
    def role(self) -> str:
        """What it is in a comparison: one of ``ROLES``."""

    def check(self, members: int, architecture: Architecture) -> None:
        """Raise a SettingError if the options do not suit this many members of this architecture."""

    def plan(self, prices: Prices) -> object:
        """Compute the schedules that fit into the budget.

        It is called before anything is trained.

        Raises:
            SettingError: If the budget is too small for the strategy.
        """

    def run(self, bench: Workbench) -> TransferResult:
        """Transfer the ensemble. The source ensemble does not change, and the workbench bills the work."""


UNSHIFTABLE = {
    COPIES: "all are copies of one encoder, and a shift of copies gives copies",
    UNTRAINED: "they start from random weights, which nothing that another one learned suits",
}
"""Lineages whose members a shift does not serve, and why."""


def check_strategy(
    strategy: Strategy, members: int, architecture: Architecture, lineage: str, budget: float | None
) -> None:
    """Raise a SettingError if a strategy does not suit an ensemble, lacks its budget, or does not say what it is.

    Args:
        strategy: The strategy; one that shifts members has the attribute ``shifts``, one that is nothing without a
            budget ``needs_budget``, and it is true.
        members: Number of members.
        architecture: Their architecture.
        lineage: Their lineage.
        budget: Maximum cost of the transfer, in fine-tunings; None for none.
    """
    needed = f"is required by {strategy.name}: what the transfer may spend in fine-tunings, such as 1.1"
    require(budget is not None or not getattr(strategy, "needs_budget", False), "budget", budget, needed)
    reason = UNSHIFTABLE.get(lineage) if getattr(strategy, "shifts", False) else None
    if reason is not None:
        take = "take few, snapshots, head or auto, or give members that differ: ensemble.members=[...] or a source task"
        raise SettingError("strategy", strategy.name, f"needs members that differ; here {reason}: {take}")
    rule = f"needs `about`, a text of one line, and `role`, one of {', '.join(ROLES)}"
    said = isinstance(getattr(strategy, "about", None), str) and getattr(strategy, "role", None) in ROLES
    require(said, "strategy", strategy.name, rule)
    with settings_under("strategy"):
        strategy.check(members, architecture)


def transfer_ensemble(  # noqa: PLR0913  # the library's entry point: all but three have a default
    strategy: Strategy,
    source: Ensemble,
    target: Task,
    seed: int = 0,
    recipes: Recipes | None = None,
    fitter: Fitter | None = None,
    budget: float | None = None,
) -> TransferResult:
    """Transfer an ensemble to a target task.

    Args:
        strategy: The strategy.
        source: The ensemble, trained on the source task.
        target: The target task. Its test split is not read.
        seed: Seed of all randomness. That of a member depends on the seed and the member's index alone.
        recipes: Optimizers, schedules and steps of the fits.
        fitter: Computes fits and caches them.
        budget: Maximum cost of the transfer, in fine-tunings; None to use the recipes unchanged.

    Raises:
        SettingError: If the strategy's options or the budget do not suit the ensemble. This is checked before training.
    """
    budget = read_budget(budget, in_time=False)
    check_strategy(strategy, len(source), source.architecture, source.lineage, budget)
    name, about = strategy.name, strategy.about
    recipes, fitter = recipes or Recipes(), fitter or Fitter()
    check_class_weights(recipes, target.train.labels, len(target.classes))
    bench = Workbench(source, target, seed, recipes, fitter, budget, strategy=name, about=about)
    return run_strategy(strategy, bench)


def run_strategy(strategy: Strategy, bench: Workbench) -> TransferResult:
    """Let a strategy run on a workbench.

    Raises:
        SettingError: If it returns something else than a result, as one of your own may.
    """
    result: object = strategy.run(bench)
    own, rule = f"{type(strategy).__module__}.{type(strategy).__qualname__}", "must return a TransferResult from run"
    require(isinstance(result, TransferResult), "strategy._target_", own, f"{rule}; it returned {result!r:.80}")
    assert isinstance(result, TransferResult)
    return result
