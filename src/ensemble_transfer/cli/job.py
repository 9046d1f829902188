"""One job: from a composed configuration to the files of a run."""

import logging
import shlex
import traceback
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.cli.build import build_experiment, build_logger
from ensemble_transfer.cli.sweep import finished_before
from ensemble_transfer.errors import RunError, SettingError
from ensemble_transfer.layout import TRACEBACK
from ensemble_transfer.report import summary
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracking import tracking
from ensemble_transfer.runs.run import Origin, run

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, hydra: HydraConf) -> float:
    """Run one job, leave its record also when it fails, and return the ensemble's NLL on validation.

    Raises:
        SettingError: For a user's mistake.
        RunError: For anything else; its traceback is kept in the run's folder.
    """
    folder = Path(hydra.runtime.output_dir)
    command = shlex.join(["python", "-m", "ensemble_transfer", *hydra.overrides.task])
    try:
        return _run(cfg, hydra, folder, command)
    except SettingError as error:
        _failed(cfg, hydra, command, str(error)).save(folder)
        raise
    except Exception as error:  # whatever happened, the record must say so
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        _failed(cfg, hydra, command, line).save(folder)
        kept = folder / TRACEBACK
        kept.write_text("".join(traceback.format_exception(error)))
        raise RunError(f"the run failed with {line}; its traceback is in {kept}") from error


def _run(cfg: DictConfig, hydra: HydraConf, folder: Path, command: str) -> float:
    config = _plain(cfg)
    experiment = build_experiment(cfg)  # every mistake shows before anything starts
    sweep = Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    if sweep is not None and (done := finished_before(config, sweep)) is not None:
        log.info("not repeated: this sweep has finished %s", done.command)
        return _objective(done)
    group = sweep.name if sweep is not None else None
    strategy = str(hydra.runtime.choices["strategy"])
    name = f"{strategy}, seed {cfg.seed}"
    with tracking(build_logger(cfg), config, folder, name, group, strategy) as tracker:
        record = run(experiment, folder, Origin(config, command, tracker))
        if tracker is not None:
            tracker.record(record)
    summary.write(record, folder)
    return _objective(record)


def _objective(record: Record) -> float:
    """Return what a sweeper minimises: the ensemble's NLL on validation."""
    nll = record.metrics["target/validation/ensemble/nll"]
    return float("inf") if nll is None else nll


def _failed(cfg: DictConfig, hydra: HydraConf, command: str, error: str) -> Record:
    """Return the record of a run that failed, from what is known without building anything."""
    chosen = hydra.runtime.choices
    ensemble = cfg.get("ensemble", {})
    return Record(
        status="failed",
        strategy=str(chosen.get("strategy")),
        seed=cfg.get("seed", 0),
        dataset=str(chosen.get("dataset")),
        backbone=str(chosen.get("backbone")),
        ensemble={name: ensemble.get(name) for name in ("size", "lineage")},
        config=_plain(cfg),
        command=command,
        error=error,
    )


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
