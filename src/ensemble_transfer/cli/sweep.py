"""Resumable sweeps: the command names the folder, and finished jobs are recognised by their configuration."""

import hashlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ensemble_transfer.cli.configuration import plain
from ensemble_transfer.cli.finished import is_search
from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import RECORD

STOPPED = ".stopped"
"""In a sweep's folder while it runs: a job has failed, and no more are started."""


@dataclass
class Running:
    """The sweep that this process was asked for."""

    overrides: Sequence[str] = ()
    config: DictConfig | None = None  # once it has started: without what it sweeps over
    ended: bool = False  # all its jobs have had their turn


running = Running()

_GRID = "hydra_plugins.ensemble_transfer_grid.ResumableGrid"

_UNNAMED = "multirun/${now:"
"""Hydra's own name of a sweep's folder, which no command finds again."""


class RememberSweep(Callback):
    """Prepares a sweep, and remembers it, since its comparison is written when all jobs have ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Name the sweep's folder, unless an experiment or the command line does."""
        del kwargs
        hydra = config.hydra
        with open_dict(hydra):
            if str(plain(hydra.sweep)["dir"]).startswith(_UNNAMED):
                override(config, "hydra.sweep.dir", folder_of(running.overrides))
        (Path(hydra.sweep.dir) / STOPPED).unlink(missing_ok=True)
        running.config = config
        if is_search(config.hydra):
            # It proposes again what it has proposed before. Trials that have finished are recognised, in their folders.
            if before := len(list(Path(hydra.sweep.dir).glob(f"*/{RECORD}"))):
                override(config, "hydra.sweep.subdir", f"{before}_${{hydra.job.num}}")
            return
        hydra.hydra_logging.root.level = "WARNING"  # Hydra would print the overrides of every job
        if hydra.runtime.choices["hydra/sweeper"] == "basic":
            hydra.sweeper._target_ = _GRID

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Note that all jobs have had their turn. Hydra does not call this when a launcher's job has failed."""
        del config, kwargs
        running.ended = True


def override(config: DictConfig, name: str, value: str) -> None:
    """Set one of Hydra's own settings, such as ``hydra.sweep.dir``, for a sweep and its jobs."""
    OmegaConf.update(config, name, value)
    config.hydra.overrides.hydra.append(f"{name}={value}")


def marker(config: DictConfig, hydra: HydraConf) -> Path | None:
    """Return the file that keeps the jobs of a sweep from starting, if it is to stop at its first failure."""
    stops = hydra.mode == RunMode.MULTIRUN and OmegaConf.select(config, "sweep.stop_at_failure")
    return Path(hydra.sweep.dir) / STOPPED if stops else None


def finish(config: DictConfig, interrupted: bool = False) -> int | None:
    """Write, print and log the comparison of a sweep; return its exit code, or None if no job has left a record.

    Of a sweep that is interrupted it is the tables alone: figures take longer than somebody waits who wants to stop.
    """
    from ensemble_transfer.cli.compare import compare

    folder = Path(config.hydra.sweep.dir).absolute()
    if (folder / STOPPED).exists():
        sys.stderr.write("stopped: sweep.stop_at_failure=true; the same command goes on where this one stopped\n")
        (folder / STOPPED).unlink()
    if not any(folder.rglob(RECORD)):
        return None
    code = compare([folder], folder / "comparison", drawn=not interrupted)
    if code != 2 and not interrupted and OmegaConf.select(config, "logger.kind") == "wandb":
        from ensemble_transfer.cli.build import build_logger
        from ensemble_transfer.report.tracking import log_comparison

        with suppress(SettingError):  # bad settings of the logger: every job has said so
            log_comparison(
                build_logger({"logger": plain(config.logger, resolve=True)}), folder / "comparison", folder.name
            )
    return code


def folder_of(overrides: Sequence[str]) -> str:
    """Return the folder of a sweep that the same overrides find again, in whatever order they stand."""
    written = sorted(overrides, key=lambda word: (not word.startswith("strategy="), not word.startswith("seed="), word))
    digest = hashlib.sha256("\n".join(written).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(written)).strip("-")[:60]
    return f"multirun/{words}-{digest}"
