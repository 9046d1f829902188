"""The end of a run: evaluate the transferred ensemble, sum up its cost, and write the files."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_transfer.inference.calibration import Calibration
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.layout import ENSEMBLE, PREDICTIONS, clear
from ensemble_transfer.metrics.evaluate import curves
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs import environment
from ensemble_transfer.runs.evaluation import Arrays, metrics_of, predict_soup, predict_source, predict_target
from ensemble_transfer.runs.experiment import PreparedRun
from ensemble_transfer.training.cost import Cost, Ledger, plain
from ensemble_transfer.transfer.base import TransferResult
from ensemble_transfer.transfer.shift.diagnostics import source_barrier
from ensemble_transfer.weights import below, cosine, distance, floating, mean_over_pairs

log = logging.getLogger(__name__)


def conclude(prepared: PreparedRun, result: TransferResult, folder: Path) -> Record:
    """Evaluate a transfer, write predictions, ensemble and shift vector into a folder, and return the record.

    The record itself is not written. It is the last file of a run, which shows that all others are complete.

    Args:
        prepared: The run.
        result: The result of its strategy.
        folder: Folder of the files; must exist.
    """
    experiment, tasks, work = prepared.experiment, prepared.tasks, prepared.work
    source, target = tasks.source, tasks.target
    metrics, line = _diagnosed(prepared, result)
    arrays = _predicted(prepared, result)
    _save(folder, arrays, result)
    fits = [entry for entry in (*prepared.source_ledger.entries, *result.ledger.entries) if entry.reused]
    record = Record(
        status="finished",
        strategy=experiment.strategy.name,
        seed=work.seed,
        dataset=f"{source.name} -> {target.name}",
        backbone=work.architecture.backbone,
        ensemble={"size": len(result.ensemble), "lineage": work.source.lineage},
        metrics=metrics_of(arrays) | metrics,
        cost=costs(result, prepared.source_ledger, work.prices.full),
        reused_fits=[{"phase": fit.phase, "member": fit.member, "key": fit.key} for fit in fits],
        curves=_curves(arrays) | line | dict(result.story),
        environment=environment.describe(work.fitter.settings),
        notes=tasks.notes(),
    )
    examples = {"train": len(target.train), "validation": len(target.validation), "test": len(target.test)}
    write_card(folder / ENSEMBLE, result.ensemble, record.metrics, record.cost, examples)
    return record


def _predicted(prepared: PreparedRun, result: TransferResult) -> Arrays:
    """Return every array of ``predictions.npz``."""
    tasks, work, settings = prepared.tasks, prepared.work, prepared.experiment.evaluation
    device = work.fitter.settings.device
    split = ("test", tasks.target.test) if settings.test else ("validation", tasks.target.validation)
    log.info("evaluating on %d %s images", len(split[1]), split[0])
    arrays = predict_source(work.source, tasks.source, device)
    arrays |= predict_target(result.ensemble, tasks, settings, device)
    if settings.test:
        aside = work.unbilled()
        soup = aside.ensemble([aside.soup(result.ensemble.members)], "soup")
        arrays |= predict_soup(soup, tasks.target, device)
    return arrays


def _diagnosed(prepared: PreparedRun, result: TransferResult) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics and curves of weights and of a shift; nothing here reads a test split."""
    work, validation = prepared.work, prepared.tasks.source.validation
    metrics = weight_metrics(work.source, result)
    if not prepared.experiment.evaluation.diagnostics:
        return metrics, {}
    found, drawn = result.diagnose(work.unbilled())
    if found:
        metrics["source/validation/barrier"] = source_barrier(work.source, validation, work.fitter.settings.device)
    return metrics | found, drawn


def weight_metrics(source: Ensemble, result: TransferResult) -> dict[str, float]:
    """Measure distance and cosine between the members' encoders, before and after the transfer."""
    metrics: dict[str, float] = {}
    for name, ensemble in (("source", source), ("target", result.ensemble)):
        encoders = [floating(below(member, "encoder")) for member in ensemble.members]
        metrics[f"{name}/diversity/weight_distance"] = mean_over_pairs(distance, encoders)
        metrics[f"{name}/diversity/weight_cosine"] = mean_over_pairs(cosine, encoders)
    return metrics


def costs(result: TransferResult, source: Ledger, full: int) -> dict[str, Any]:
    """Return the costs of a record.

    Args:
        result: The result of the strategy.
        source: Cost of the source ensemble.
        full: FLOPs of one fine-tuning.
    """
    total, marginal, size = in_fine_tunings(result.ledger.total(), full), result.marginal(), len(result.ensemble)
    return {
        "phases": {phase: in_fine_tunings(cost, full) for phase, cost in result.ledger.by_phase().items()},
        "total": total,
        "per_member": {k: v if k == "peak_memory_bytes" else v / size for k, v in total.items()},
        "marginal": in_fine_tunings(marginal, full) if marginal else None,
        "source": in_fine_tunings(source.total(), full),
        "full_flops": full,
    }


def in_fine_tunings(cost: Cost, full: int) -> dict[str, Any]:
    """Return the fields of a cost by name, and its FLOPs in fine-tunings."""
    return plain(cost) | {"fine_tunings": cost.flops / full}


def _curves(arrays: Arrays) -> dict[str, Any]:
    if "probabilities" not in arrays:
        return {}
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    return curves(arrays["probabilities"], arrays["labels"], validation=held_out)


def _save(folder: Path, arrays: Arrays, result: TransferResult) -> None:
    clear(folder)
    np.savez_compressed(folder / PREDICTIONS, **arrays)  # type: ignore[arg-type]  # stub lacks the mapping
    result.ensemble.save(folder / ENSEMBLE)
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    Calibration.fit(*held_out).save(folder / ENSEMBLE, result.ensemble.fingerprint)
    result.save(folder)
