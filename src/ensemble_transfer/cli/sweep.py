"""Sweeps that go on where they stopped: a folder named by the command, jobs recognised by their configuration."""

import hashlib
import json
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

# What a run does not depend on: where it is computed, remembered and logged. The precision it does depend on.
_INCIDENTAL = ("store", "logger")
_INCIDENTAL_TRAINER = (
    "accelerator",
    "executor",
    "channels_last",
    "group_size",
    "threads",
    "checkpoint_seconds",
    "progress",
)

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
    """Return the arguments of a sweep with a folder that the same command finds again, unless they name one."""
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
    wanted = _what(config)
    for path in sorted(sweep.glob(f"*/{RECORD}")):
        try:
            record = Record.load(path)
        except ValueError:
            continue  # damaged or of another version: the job runs again and replaces it
        if record.status == "finished" and _what(record.config) == wanted:
            return record
    return None


def _what(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in _INCIDENTAL}
    trainer = {k: v for k, v in dict(kept.get("trainer") or {}).items() if k not in _INCIDENTAL_TRAINER}
    return json.dumps(kept | {"trainer": trainer}, sort_keys=True)
