"""An extension: new source members -> the shift of the run -> record."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import ENSEMBLE, SHIFT
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs.conclusion import conclude
from ensemble_transfer.runs.experiment import Experiment, PreparedRun
from ensemble_transfer.runs.files import own_run
from ensemble_transfer.runs.run import Origin, prepare
from ensemble_transfer.training.cost import FineTuning, from_plain, mean_cost, merged
from ensemble_transfer.transfer.base import Strategy
from ensemble_transfer.transfer.shift.result import ShiftResult
from ensemble_transfer.transfer.shift.vector import ShiftVector, donor_weights
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.strategies.turns import Turns
from ensemble_transfer.transfer.workbench import TransferResult, Workbench
from ensemble_transfer.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run of strategy ``shift`` or ``turns``, as it lies on disk."""

    record: Record
    ensemble: Ensemble
    shift: ShiftVector | None

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run.

        Raises:
            SettingError: If the folder holds no finished run that shifted members, or a damaged or foreign file.
        """
        record = own_run(folder)
        has_vector, turns = (folder / SHIFT).is_file(), record.curves.get("turns")
        rule = f"must be a run of strategy shift, which leaves {SHIFT}, or of turns; this one is {record.strategy}"
        require(has_vector or _tells_its_turns(turns), "RUN", str(folder), rule)
        try:
            parts = [record.cost["total"], record.cost["marginal"], *record.cost["phases"].values()]
            _ = [from_plain(part) for part in parts if part is not None]
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingError("RUN", str(folder), f"the cost in its record is damaged: {error}") from error
        vector = ShiftVector.load(folder / SHIFT) if has_vector else None
        return cls(record, Ensemble.load(folder / ENSEMBLE), vector)

    @property
    def donors(self) -> int:
        """Number of the donors, which are the first members."""
        if self.shift is not None:
            return len(self.shift.donors)
        return len(self.record.curves["turns"]["donor_weights"].split(","))


def _tells_its_turns(decisions: Any) -> bool:  # noqa: ANN401  # what a record holds
    """Return whether a record holds what a run of ``turns`` needs to be extended."""
    if not isinstance(decisions, dict) or not {"scale", "donor_weights", "target_task"} <= decisions.keys():
        return False
    finite = isinstance(decisions["scale"], int | float) and math.isfinite(decisions["scale"])
    return finite and isinstance(decisions["donor_weights"], str)


def extend(
    run: Run, experiment: Experiment, folder: Path, add: int, against_full: bool = False, origin: Origin | None = None
) -> Record:
    """Add members to a transferred ensemble, write the larger run into a folder, and return its record.

    The members that were there stay as they are. The record is that of a run of the larger size from the start, with
    ``cost.added``, what the new members cost, and, on request, a full fine-tuning of the same members to compare with:
    ``cost.added_full`` and the metrics ``extend/...``.

    Raises:
        SettingError: If the run's shift was not made for this target and these donors.
    """
    origin = origin or Origin()
    quiet = replace(experiment.evaluation, diagnostics=False)
    prepared = prepare(replace(experiment, evaluation=quiet, budget=None), origin.tracker)
    bench = prepared.bench.at(run.ensemble.image_sizes[0])  # all have one
    new = range(len(bench.source) - add, len(bench.source))
    if run.shift is not None:
        result: TransferResult = _by_the_vector(run, run.shift, bench, experiment.strategy, new)
    else:
        result = _in_turns(run, bench, experiment.strategy, new)
    record = conclude(prepared, result, folder)
    on_gpu = bench.fitter.settings.device.type == "cuda"
    unit = FineTuning(record.cost["full_flops"], record.cost["full_seconds"], on_gpu)
    record = _with_the_run_before(record, run, unit)
    if against_full:
        record = _with_full(record, prepared, result.ensemble.members[len(run.ensemble) :], unit)
    record = replace(record, config=origin.config, command=origin.command)
    record.save(folder)
    return record


def _by_the_vector(run: Run, shift: ShiftVector, bench: Workbench, strategy: Strategy, new: range) -> ShiftResult:
    """Add members by the stored shift vector."""
    require(isinstance(strategy, Shift), "strategy", strategy.name, "must be shift")
    assert isinstance(strategy, Shift)
    shift.require_fit(bench.source, bench.target)
    log.info("adding members %d to %d by the stored shift vector", new[0] + 1, new[-1] + 1)
    donors = [run.ensemble.members[donor] for donor in shift.donors]
    added = strategy.add(bench, {member: bench.encoders[member] for member in new}, shift, donors)
    whole = _larger(run, bench.ensemble((*run.ensemble.members, *added.weights), strategy.name))
    return ShiftResult(whole, bench.ledger, tuple(new), shift, added.shifted)


def _in_turns(run: Run, bench: Workbench, strategy: Strategy, new: range) -> TransferResult:
    """Add members as the donors moved, in turns: from the source ensemble to the run's."""
    require(isinstance(strategy, Turns), "strategy", strategy.name, "must be turns")
    assert isinstance(strategy, Turns)
    kept, target = run.record.curves["turns"], bench.target
    rule = f"was made for another task than {target.name} of this run"
    require(kept["target_task"] == target.fingerprint, "turns", kept["target_task"], rule)
    donors = dict(enumerate(run.ensemble.members[: strategy.donors]))
    rule = f"was made from other donors than the first {strategy.donors} members of this ensemble"
    require(kept["donor_weights"] == donor_weights(bench.source, donors), "turns", kept["donor_weights"], rule)
    log.info("adding members %d to %d as the donors moved, in turns", new[0] + 1, new[-1] + 1)
    added = strategy.add(bench, donors, new, kept["scale"])
    whole = _larger(run, bench.ensemble((*run.ensemble.members, *added), strategy.name))
    return TransferResult(whole, bench.ledger, tuple(new), decisions={"turns": kept})


def _larger(run: Run, whole: Ensemble) -> Ensemble:
    """Return the larger ensemble with what the run chose in its history."""
    chosen = {key: value for key, value in run.ensemble.history.items() if key == "chosen_on"}
    return replace(whole, history=dict(whole.history) | chosen)


def _with_the_run_before(record: Record, run: Run, unit: FineTuning) -> Record:
    """Return the record with the cost of the members that were there, and with what the shift did for them."""
    cost, before, old = dict(record.cost), run.record, run.record.cost
    recipients, added = len(run.ensemble) - run.donors, record.ensemble["size"] - len(run.ensemble)
    cost["added"] = {"members": added, "phases": cost["phases"], "total": cost["total"]}
    names = dict.fromkeys([*old["phases"], *cost["phases"]])
    cost["phases"] = {name: _sum(unit, old["phases"].get(name), cost["phases"].get(name)) for name in names}
    cost["total"] = _sum(unit, old["total"], cost["total"])
    size = record.ensemble["size"]
    cost["per_member"] = {k: v if k == "peak_memory_bytes" else v / size for k, v in cost["total"].items()}
    marginal = [*([old["marginal"]] * recipients if old["marginal"] else []), *[cost["marginal"]] * added]
    by_time = [_by_time(unit, one) for one in marginal]
    mean = unit.measured(mean_cost(list(map(from_plain, marginal))))
    cost["marginal"] = mean | {"fine_tunings_by_time": sum(by_time) / len(by_time)}
    shift = {k: v for k, v in before.metrics.items() if k.startswith("shift/") or k == "source/validation/barrier"}
    line = {name: curve for name, curve in before.curves.items() if name == "shift_line"}
    return replace(record, cost=cost, metrics={**record.metrics, **shift}, curves={**record.curves, **line})


def _sum(unit: FineTuning, *costs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the sum of costs. By time each is in fine-tunings of the machine and the threads that it was spent on."""
    known = [cost for cost in costs if cost is not None]
    by_time = sum(_by_time(unit, cost) for cost in known)
    return unit.measured(merged(list(map(from_plain, known)))) | {"fine_tunings_by_time": by_time}


def _by_time(unit: FineTuning, cost: Mapping[str, Any]) -> float:
    """Return a cost by time; by the given unit where its record does not tell."""
    told: float = cost.get("fine_tunings_by_time", unit.time(from_plain(cost)) / unit.seconds)
    return told


def _with_full(record: Record, prepared: PreparedRun, weights: Sequence[Weights], unit: FineTuning) -> Record:
    """Return the record with a full fine-tuning of the new members beside theirs: accuracy, and cost."""
    log.info("fine-tuning the added members fully, to compare")
    bench, target = prepared.bench.at(record.ensemble["image_sizes"][0]).unbilled(), prepared.tasks.target
    split = target.test if prepared.experiment.evaluation.test else target.validation
    new = range(len(bench.source) - len(weights), len(bench.source))
    full = bench.fine_tune_fully({member: bench.encoders[member] for member in new})
    metrics: dict[str, float] = {}
    for name, members in (("", weights), ("full_", full.weights)):
        predicted = bench.ensemble(members, "extend").predict(split.images, bench.fitter.settings.device).argmax(-1)
        right = (predicted == split.labels).double().mean(-1)
        metrics |= {f"extend/member_{m}/{name}accuracy": float(a) for m, a in zip(new, right, strict=True)}
        metrics[f"extend/{name}accuracy"] = float(right.mean())
    metrics["extend/accuracy_gain_over_full"] = metrics["extend/accuracy"] - metrics["extend/full_accuracy"]
    spent = bench.ledger.total()
    metrics["extend/flops_ratio_to_full"] = record.cost["added"]["total"]["flops"] / spent.flops
    added_full = {"members": len(new), "total": unit.measured(spent)}
    return replace(record, metrics={**record.metrics, **metrics}, cost=dict(record.cost) | {"added_full": added_full})
