"""The end of a run: evaluate the transferred ensemble, sum up its cost, and write the files."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from ensemble_transfer.inference.calibration import Calibration
from ensemble_transfer.inference.model_card import write_card
from ensemble_transfer.layout import ENSEMBLE, PREDICTIONS, clear
from ensemble_transfer.metrics.archive import with_checksum
from ensemble_transfer.metrics.curves import curves
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.report.record import Record
from ensemble_transfer.runs import environment
from ensemble_transfer.runs.costs import costs
from ensemble_transfer.runs.evaluation import Arrays, kept, metrics_of, predict_soup, predict_source, predict_target
from ensemble_transfer.runs.experiment import PreparedRun
from ensemble_transfer.runs.files import fingerprints
from ensemble_transfer.runs.gallery import show_errors
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.transfer.shift.diagnostics import source_barrier
from ensemble_transfer.transfer.workbench import TransferResult
from ensemble_transfer.weights import below, floating, mean_distance_and_cosine

log = logging.getLogger(__name__)


def conclude(prepared: PreparedRun, result: TransferResult, folder: Path) -> Record:
    """Evaluate a transfer, write predictions, ensemble and shift vector into a folder, and return the record.

    The record itself is not written. It is the last file of a run, which shows that all others are complete.
    """
    experiment, tasks, bench = prepared.experiment, prepared.tasks, prepared.bench
    target = tasks.target
    metrics, line = _diagnosed(prepared, result)
    arrays = _predicted(prepared, result)
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    tested = "probabilities" in arrays
    drawn = curves(arrays["probabilities"], arrays["labels"], validation=held_out) if tested else {}
    _save(folder, arrays, result, experiment.evaluation.keep)
    if tested:
        show_errors(
            folder, f"Errors on {tasks.name}, strategy {experiment.strategy.name}", arrays, target.test, target.classes
        )
    entries = [*(prepared.source_ledger or Ledger()).entries, *result.ledger.entries]
    fits = [entry for entry in entries if entry.reused]
    record = Record(
        status="finished",
        strategy=experiment.strategy.name,
        about=experiment.strategy.about,
        role=experiment.strategy.role,
        seed=bench.seed,
        dataset=tasks.name,
        backbone=bench.architecture.backbone,
        ensemble={
            "size": len(result.ensemble),
            "lineage": bench.source.lineage,
            "classes": list(result.ensemble.classes),
            "image_sizes": list(result.ensemble.image_sizes),
        },
        metrics=metrics_of(arrays) | metrics,
        cost=costs(result, prepared.source_ledger, bench),
        reused_fits=[{"phase": fit.phase, "member": fit.member, "key": fit.key} for fit in fits],
        curves=drawn | line | dict(result.decisions) | {"learning": result.ledger.learning()},
        environment=environment.describe(bench.fitter.settings),
        data=tasks.fingerprints(),
        images=tasks.origins(),
        inputs=prepared.inputs,
        files=fingerprints(folder),
        notes=tasks.notes(),
    )
    examples = {"train": len(target.train), "validation": len(target.validation), "test": len(target.test)}
    write_card(folder / ENSEMBLE, result.ensemble, record.metrics, record.cost, examples)
    return record


def _predicted(prepared: PreparedRun, result: TransferResult) -> Arrays:
    """Return every array of ``predictions.npz``."""
    tasks, bench, settings = prepared.tasks, prepared.bench, prepared.experiment.evaluation
    device = bench.fitter.settings.device
    split = ("test", tasks.target.test) if settings.test else ("validation", tasks.target.validation)
    log.info("evaluating on %d %s images", len(split[1]), split[0])
    arrays = predict_source(bench.source, tasks.source, device) if tasks.source is not None else {}
    arrays |= predict_target(result.ensemble, tasks, settings, device)
    if settings.test and len({*result.ensemble.image_sizes}) == 1:  # weights of one size suit no other
        aside = bench.at(result.ensemble.image_sizes[0]).unbilled()
        soup = aside.ensemble([aside.soup(result.ensemble.members)], "soup")
        arrays |= predict_soup(soup, tasks.target, device)
    return arrays


def _diagnosed(prepared: PreparedRun, result: TransferResult) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics and curves of weights and of a shift; nothing here reads a test split."""
    bench, task = prepared.bench, prepared.tasks.source
    metrics = weight_metrics(bench.source if task is not None else None, result)
    if task is not None:
        metrics["source/chance_nll"] = math.log(len(task.classes))
    if not prepared.experiment.evaluation.diagnostics:
        return metrics, {}
    found, drawn = result.diagnose(bench.unbilled())
    if found and task is not None:
        device = bench.fitter.settings.device
        metrics["source/validation/barrier"] = source_barrier(bench.source, task.validation, device)
    return metrics | found, drawn


def weight_metrics(source: Ensemble | None, result: TransferResult) -> dict[str, float]:
    """Measure distance and cosine between the members' encoders, before (given a source) and after the transfer.

    Tensors whose shape depends on the image size, such as a ViT's positions, are left out where sizes differ.
    """
    metrics: dict[str, float] = {}
    for name, ensemble in (("source", source), ("target", result.ensemble)):
        if ensemble is None:
            continue
        encoders = [floating(below(member, "encoder")) for member in ensemble.members]
        common = [name for name in encoders[0] if len({encoder[name].shape for encoder in encoders}) == 1]
        distance, cosine = mean_distance_and_cosine([{name: own[name] for name in common} for own in encoders])
        metrics[f"{name}/diversity/weight_distance"] = distance
        metrics[f"{name}/diversity/weight_cosine"] = cosine
    return metrics


def _save(folder: Path, arrays: Arrays, result: TransferResult, keep: str) -> None:
    clear(folder)
    if predictions := kept(arrays, keep):
        np.savez_compressed(folder / PREDICTIONS, **with_checksum(predictions))  # type: ignore[arg-type]  # its stub
    result.ensemble.save(folder / ENSEMBLE)
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    Calibration.fit(*held_out, result.ensemble.by_encoder).save(folder / ENSEMBLE, result.ensemble.fingerprint)
    result.save(folder)
