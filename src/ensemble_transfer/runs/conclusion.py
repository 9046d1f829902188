"""The end of a run: what the transferred ensemble is worth, what it cost, and the files that say so."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_transfer.inference.calibration import Calibration
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.layout import ENSEMBLE, PREDICTIONS
from ensemble_transfer.metrics.evaluate import curves
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs import environment
from ensemble_transfer.runs.evaluation import (
    Arrays,
    EvaluationSettings,
    metrics_of,
    predict_soup,
    predict_source,
    predict_target,
)
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.training.cost import Ledger, plain
from ensemble_transfer.transfer.base import Transfer, TransferResult
from ensemble_transfer.transfer.shift.diagnostics import diagnose_shift, shift_line, source_barrier
from ensemble_transfer.weights import below, cosine, distance, floating, mean_over_pairs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tasks:
    """What a run works on.

    Attributes:
        source: The source task.
        target: The target task.
        outside: Out-of-distribution images by name, those of the source task among them.
    """

    source: Task
    target: Task
    outside: Mapping[str, Split]


def conclude(
    work: Transfer,
    tasks: Tasks,
    result: TransferResult,
    source_ledger: Ledger,
    strategy: str,
    evaluation: EvaluationSettings,
    folder: Path,
) -> Record:
    """Evaluate a transfer, write predictions, ensemble and shift vector into a folder, and return the record.

    The record is not written: it is the last file of a run, and says that all others are there.

    Args:
        work: The transfer.
        tasks: Source, target and what is out of distribution.
        result: What the strategy gave.
        source_ledger: What the source ensemble cost.
        strategy: Name of the strategy.
        evaluation: What the result is evaluated on.
        folder: Where the files go; must exist.
    """
    source, target, device = tasks.source, tasks.target, work.fitter.settings.device
    metrics, line = _diagnosed(work, result, source, evaluation, strategy)
    log.info("evaluating on %d test images", len(target.test))
    arrays = predict_source(work.source, source, device)
    arrays |= predict_target(result.ensemble, target, tasks.outside, evaluation, device)
    arrays |= predict_soup(work.ensemble([work.soup(result.ensemble.members)], "soup"), target, device)
    _save(folder, arrays, result)
    fits = [entry for entry in (*source_ledger.entries, *result.ledger.entries) if entry.reused]
    record = Record(
        status="finished",
        strategy=strategy,
        seed=work.seed,
        dataset=f"{source.name} -> {target.name}",
        backbone=work.architecture.backbone,
        ensemble={"size": len(work.source), "lineage": work.source.lineage},
        metrics=metrics_of(arrays) | metrics,
        cost=_costs(result, source_ledger),
        reused_fits=[{"phase": fit.phase, "member": fit.member, "key": fit.key} for fit in fits],
        curves=_curves(arrays) | line,
        environment=environment.describe(device),
    )
    examples = {"train": len(target.train), "validation": len(target.validation), "test": len(target.test)}
    write_card(folder / ENSEMBLE, result.ensemble, record.metrics, record.cost, examples)
    return record


def _diagnosed(
    work: Transfer, result: TransferResult, source: Task, evaluation: EvaluationSettings, strategy: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what weights and a shift vector say, as metrics and curves; nothing here reads a test split."""
    metrics = weight_metrics(work.source, result)
    if result.shift is None or strategy == "random_shift" or not evaluation.diagnostics:
        return metrics, {}
    log.info("diagnosing the shift on validation")
    device = work.fitter.settings.device
    metrics["source/validation/barrier"] = source_barrier(work.source, source.validation, device)
    return metrics | diagnose_shift(work, result, result.shift), {"shift_line": shift_line(work, result)}


def weight_metrics(source: Ensemble, result: TransferResult) -> dict[str, float]:
    """Return how far apart the members' encoders are, before and after the transfer."""
    metrics: dict[str, float] = {}
    for name, ensemble in (("source", source), ("target", result.ensemble)):
        encoders = [floating(below(member, "encoder")) for member in ensemble.members]
        metrics[f"{name}/diversity/weight_distance"] = mean_over_pairs(distance, encoders)
        metrics[f"{name}/diversity/weight_cosine"] = mean_over_pairs(cosine, encoders)
    return metrics


def _costs(result: TransferResult, source: Ledger) -> dict[str, Any]:
    total, marginal, size = result.ledger.total(), result.marginal(), len(result.ensemble)
    costs: dict[str, Any] = {
        "phases": {phase: plain(cost) for phase, cost in result.ledger.by_phase().items()},
        "total": plain(total),
        "per_member": {k: v if k == "peak_memory_bytes" else v / size for k, v in plain(total).items()},
        "marginal": plain(marginal) if marginal else None,
        "source": plain(source.total()),
    }
    return costs


def _curves(arrays: Arrays) -> dict[str, Any]:
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    return curves(arrays["probabilities"], arrays["labels"], validation=held_out)


def _save(folder: Path, arrays: Arrays, result: TransferResult) -> None:
    np.savez_compressed(folder / PREDICTIONS, **arrays)  # type: ignore[arg-type]  # stub lacks the mapping
    result.ensemble.save(folder / ENSEMBLE)
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    Calibration.fit(*held_out).save(folder / ENSEMBLE, result.ensemble.fingerprint)
    if result.shift is not None:
        result.shift.save(folder)
