"""The story of an extension: new source members -> the stored shift vector -> tiny fine-tuning -> record."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import ENSEMBLE, RECORD, SHIFT
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.conclusion import Tasks, conclude
from ensemble_transfer.runs.experiment import Experiment, keep, load_tasks
from ensemble_transfer.training.cost import Cost, Ledger, mean_cost, merged, plain
from ensemble_transfer.training.source import train_source
from ensemble_transfer.transfer.base import Transfer, TransferResult
from ensemble_transfer.transfer.shift.vector import ShiftVector
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run of strategy ``shift``, as it lies on disk.

    Attributes:
        record: Its record.
        ensemble: The transferred ensemble.
        shift: The shift vector.
    """

    record: Record
    ensemble: Ensemble
    shift: ShiftVector

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run.

        Raises:
            SettingError: If the folder holds no finished run with a shift vector, or a file of it is damaged.
        """
        path = folder / RECORD
        require(path.is_file(), "RUN", str(folder), f"must be the folder of a run, with {RECORD}")
        try:
            record = Record.load(path)
        except ValueError as error:
            raise SettingError("RUN", str(folder), str(error)) from error
        require(record.status == "finished", "RUN", str(folder), "must be a run that has finished")
        rule = f"must be a run of strategy shift, which leaves {SHIFT}; this one is {record.strategy}"
        require((folder / SHIFT).is_file(), "RUN", str(folder), rule)
        return cls(record, Ensemble.load(folder / ENSEMBLE), ShiftVector.load(folder / SHIFT))


def extend(
    run: Run,
    experiment: Experiment,
    folder: Path,
    against_full: bool = True,
    config: Mapping[str, Any] | None = None,
    command: str = "",
) -> Record:
    """Add members to a transferred ensemble, write the larger run into a folder, and return its record.

    The members that were there stay as they are. The record is that of a run of the larger size from the start, with
    two more things: ``cost.added``, what the new members cost, and, against a full fine-tuning of the same members,
    ``cost.added_full`` and the metrics ``extend/...``.

    Args:
        run: The run.
        experiment: The same experiment with the larger ensemble.
        folder: Where the larger run goes; must exist.
        against_full: Whether to fine-tune the new members fully as well, only to compare.
        config: The configuration that describes the experiment, for the record.
        command: The command that repeats the extension.

    Raises:
        SettingError: If the shift vector was not made for this target and these donors.
    """
    strategy = experiment.strategy
    require(isinstance(strategy, Shift), "strategy", strategy.name, "must be shift")
    assert isinstance(strategy, Shift)
    experiment.check()
    experiment.use_threads()
    seed, recipes, fitter = experiment.seed, experiment.recipes, experiment.fitter
    tasks = load_tasks(experiment)
    source, source_ledger = train_source(experiment.ensemble, experiment.backbone, tasks.source, seed, recipes, fitter)
    run.shift.require_fit(source, tasks.target)
    keep(source, fitter.store)
    work = Transfer(source, tasks.target.sealed(), seed, recipes, fitter)
    new = range(len(run.ensemble), len(source))
    log.info("adding members %d to %d by the stored shift vector", new[0], new[-1])
    ledger = Ledger()
    donors = [run.ensemble.members[donor] for donor in run.shift.donors]
    added = strategy.add(work, {member: work.encoders[member] for member in new}, run.shift, donors, ledger)
    whole = work.ensemble((*run.ensemble.members, *added.weights), strategy.name)
    result = TransferResult(whole, ledger, tuple(new), run.shift, added.shifted)
    quiet = replace(experiment.evaluation, diagnostics=False)
    record = conclude(work, tasks, result, source_ledger, strategy.name, quiet, folder)
    record = _with_the_run_before(record, run.record, len(run.ensemble) - len(donors), len(new))
    if against_full:
        record = _with_full(record, work, tasks, added.weights, new)
    record = replace(record, config=config or {}, command=command)
    record.save(folder)
    return record


def _with_the_run_before(record: Record, before: Record, recipients: int, added: int) -> Record:
    """Return the record with the cost of the members that were there, and with what the shift did for them."""
    cost, old = dict(record.cost), before.cost
    cost["added"] = {"members": added, "phases": cost["phases"], "total": cost["total"]}
    names = dict.fromkeys([*old["phases"], *cost["phases"]])
    cost["phases"] = {name: _sum(old["phases"].get(name), cost["phases"].get(name)) for name in names}
    cost["total"] = _sum(old["total"], cost["total"])
    size = record.ensemble["size"]
    cost["per_member"] = {k: v if k == "peak_memory_bytes" else v / size for k, v in cost["total"].items()}
    marginal = [Cost(**old["marginal"])] * recipients if old["marginal"] else []
    cost["marginal"] = plain(mean_cost([*marginal, *[Cost(**cost["marginal"])] * added]))
    shift = {k: v for k, v in before.metrics.items() if k.startswith("shift/") or k == "source/validation/barrier"}
    line = {name: curve for name, curve in before.curves.items() if name == "shift_line"}
    return replace(record, cost=cost, metrics={**record.metrics, **shift}, curves={**record.curves, **line})


def _sum(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any]:
    return plain(merged([Cost(**cost) for cost in (one, other) if cost is not None]))


def _with_full(record: Record, work: Transfer, tasks: Tasks, weights: Sequence[Weights], new: range) -> Record:
    """Return the record with a full fine-tuning of the new members beside theirs: accuracy on test, and cost."""
    log.info("fine-tuning the added members fully, to compare")
    full = work.fine_tune_fully({member: work.encoders[member] for member in new})
    metrics: dict[str, float] = {}
    test, device = tasks.target.test, work.fitter.settings.device
    for name, members in (("", weights), ("full_", full.weights)):
        predicted = work.ensemble(members, "extend").predict(test.images, device).argmax(-1)
        right = (predicted == test.labels).double().mean(-1)
        metrics |= {f"extend/member_{m}/{name}accuracy": float(a) for m, a in zip(new, right, strict=True)}
        metrics[f"extend/{name}accuracy"] = float(right.mean())
    metrics["extend/accuracy_gain_over_full"] = metrics["extend/accuracy"] - metrics["extend/full_accuracy"]
    spent = Ledger(full.entries()).total()
    metrics["extend/flops_ratio_to_full"] = record.cost["added"]["total"]["flops"] / spent.flops
    cost = dict(record.cost) | {"added_full": {"members": len(new), "total": plain(spent)}}
    return replace(record, metrics={**record.metrics, **metrics}, cost=cost)
