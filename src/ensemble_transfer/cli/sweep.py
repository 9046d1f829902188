"""Resumable sweeps: the command names the folder, and finished jobs are recognised by their configuration."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ensemble_transfer.cli.finished import is_search
from ensemble_transfer.cli.grid import Grid
from ensemble_transfer.errors import RunError, SettingError
from ensemble_transfer.layout import RECORD

STOPPED = ".stopped"
"""In a sweep's folder while it runs: a job has failed, and no more are started."""


STOPS = "sweep.stop_at_failure"
"""The setting that stops a sweep at its first failure."""


class SweepStopped(BaseException):
    """A job has failed, and the sweep was asked to stop then. No Exception, so that no launcher goes on."""


@dataclass
class Asked:
    """The sweep that this process was asked for."""

    overrides: Sequence[str] = ()
    config: DictConfig | None = None  # once it has started: without what it sweeps over
    ended: bool = False  # all its jobs have had their turn


asked = Asked()

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

_UNNAMED = "multirun/${now:"
"""Hydra's own name of a sweep's folder, which no command finds again."""


class RememberSweep(Callback):
    """Prepares a sweep, and remembers it, since its comparison is written when all jobs have ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Name the sweep's folder, unless an experiment or the command line does."""
        del kwargs
        hydra = config.hydra
        with open_dict(hydra):
            if str(hydra.sweep._get_node("dir")).startswith(_UNNAMED):
                override(config, "hydra.sweep.dir", folder_of(asked.overrides))
        (Path(hydra.sweep.dir) / STOPPED).unlink(missing_ok=True)
        asked.config = config
        if is_search(config.hydra):
            # It proposes again what it has proposed before. Trials that have finished are recognised, in their folders.
            if before := len(list(Path(hydra.sweep.dir).glob(f"*/{RECORD}"))):
                override(config, "hydra.sweep.subdir", f"{before}_${{hydra.job.num}}")
            return
        hydra.hydra_logging.root.level = "WARNING"  # Hydra would print the overrides of every job
        Plugins.instance().class_name_to_class[_BASIC] = Grid  # Hydra takes plugins from packages of its own alone

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Note that all jobs have had their turn. Hydra does not call this when a launcher's job has failed."""
        del config, kwargs
        asked.ended = True


def override(config: DictConfig, name: str, value: str) -> None:
    """Set one of Hydra's own settings, such as ``hydra.sweep.dir``, for a sweep and its jobs."""
    OmegaConf.update(config, name, value)
    config.hydra.overrides.hydra.append(f"{name}={value}")


def require_going_on(config: DictConfig, hydra: HydraConf) -> None:
    """Raise a RunError if a job is not to start, since another has failed and the sweep is to stop then."""
    stops = bool(OmegaConf.select(config, STOPS)) and hydra.mode == RunMode.MULTIRUN
    if stops and (Path(hydra.sweep.dir) / STOPPED).exists():
        raise RunError(f"not started, since another job has failed: {STOPS}=true")


def failed(config: DictConfig, hydra: HydraConf) -> bool:
    """Note that a job has failed, and return whether its sweep is to stop."""
    stops = bool(OmegaConf.select(config, STOPS)) and hydra.mode == RunMode.MULTIRUN
    if stops:
        with suppress(OSError):
            (Path(hydra.sweep.dir) / STOPPED).touch()
    return stops


def finish(config: DictConfig) -> int | None:
    """Write, print and log the comparison of a sweep; return its exit code, or None if no job has left a record."""
    from ensemble_transfer.cli.compare import compare

    folder = Path(config.hydra.sweep.dir).absolute()
    (folder / STOPPED).unlink(missing_ok=True)
    if not any(folder.rglob(RECORD)):
        return None
    code = compare([folder], folder / "comparison")
    if code != 2 and OmegaConf.select(config, "logger.kind") == "wandb":
        from ensemble_transfer.cli.build import build_logger
        from ensemble_transfer.report.tracking import log_comparison

        with suppress(SettingError):  # bad settings of the logger: every job has said so
            log_comparison(build_logger(config), folder / "comparison", folder.name)
    return code


def folder_of(overrides: Sequence[str]) -> str:
    """Return the folder of a sweep that the same overrides find again, in whatever order they stand."""
    written = sorted(overrides, key=lambda word: (not word.startswith("strategy="), not word.startswith("seed="), word))
    digest = hashlib.sha256("\n".join(written).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(written)).strip("-")[:60]
    return f"multirun/{words}-{digest}"
