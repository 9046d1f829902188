"""Resumable sweeps: the command names the folder, and finished jobs are recognised by their configuration."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import RECORD
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive

remembered: list[DictConfig] = []
"""Configurations of the sweeps that this process has started, without what they sweep over."""


class RememberSweep(Callback):
    """Remembers a sweep, whose comparison is written when all jobs have ended.

    Hydra does not call ``on_multirun_end`` when a job has failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Take Hydra's configuration."""
        del kwargs
        remembered.append(config)


def finish(config: DictConfig) -> int:
    """Write, print and log the comparison of a sweep; return its exit code."""
    from ensemble_transfer.cli.compare import compare

    folder = Path(config.hydra.sweep.dir).absolute()
    if not folder.exists():
        return 0
    code = compare([folder], folder / "comparison")
    if code != 2 and OmegaConf.select(config, "logger.kind") == "wandb":
        from ensemble_transfer.cli.build import build_logger
        from ensemble_transfer.report.tracking import log_comparison

        with suppress(SettingError):  # bad settings of the logger: every job has said so
            log_comparison(build_logger(config), folder / "comparison", folder.name)
    return code


def with_folder(arguments: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep with a folder that the same command finds again, unless they name one."""
    if any(argument.lstrip("+").startswith("hydra.sweep.dir=") for argument in arguments):
        return list(arguments)
    overrides = list(arguments)
    overrides.sort(
        key=lambda override: (not override.startswith("+strategy="), not override.startswith("seed="), override)
    )
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(overrides)).strip("-")[:60]
    return [*arguments, f"hydra.sweep.dir=multirun/{words}-{digest}"]


def finished_before(config: Mapping[str, Any], sweep: Path) -> Record | None:
    """Return the record of a job of this sweep that has finished with the same configuration.

    Args:
        config: The job's resolved configuration.
        sweep: Folder of the sweep.
    """
    wanted = decisive(config)
    for path in sorted(sweep.glob(f"*/{RECORD}")):
        record, found = finished(path)
        if record is not None and found == wanted:
            return record
    return None


_read: dict[Path, tuple[int, Record | None, dict[str, Any]]] = {}
"""Finished records that this process has read, by path: time of change, record, what decided its result."""


def finished(path: Path) -> tuple[Record | None, dict[str, Any]]:
    """Return a finished record and what decided its result; None for one that is not finished or is damaged.

    A record that has not changed is read once by a process: a sweep asks for all of them before each job.
    """
    try:
        changed = path.stat().st_mtime_ns
        if path not in _read or _read[path][0] != changed:
            record = Record.load(path)
            known = record if record.status == "finished" else None
            _read[path] = changed, known, decisive(record.config) if known else {}
    except (OSError, ValueError):
        return None, {}  # damaged or of another version: the job runs again and replaces it
    return _read[path][1:]
