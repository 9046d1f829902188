"""Weights & Biases: configuration, learning curves, metrics and cost of a run.

The only module that imports wandb, and it does so only where a run asks for it.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.records import Record

if TYPE_CHECKING:
    import wandb

KINDS = ("none", "wandb")
MODES = ("offline", "online")
_SECONDS_TO_CONNECT = 5.0


@dataclass(frozen=True)
class LoggerSettings:
    """Where runs are logged besides their record.

    Attributes:
        kind: ``none`` or ``wandb``.
        mode: ``offline`` writes below the run's folder; ``online`` sends to the server, which needs a key.
        project: Project of the runs.
        entity: Team or user; null for the key's default.
        group: Group of the run; null for the name of the sweep's folder.
        tags: Tags of the run.
    """

    kind: str = "none"
    mode: str = "offline"
    project: str = "ensemble_transfer"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        require(self.mode in MODES, "mode", self.mode, f"must be one of {', '.join(MODES)}")
        require(self.project != "", "project", self.project, "must not be empty")


class WandbRun:
    """A run on W&B: a :class:`~ensemble_transfer.training.progress.Tracker` that also takes the record."""

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        self._phases: set[str] = set()

    def curve(self, phase: str, member: int, step: int, loss: float) -> None:
        """Log one point of a member's learning curve, against the phase's own steps."""
        if phase not in self._phases:
            self._phases.add(phase)
            self._run.define_metric(f"{phase}/step", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
        self._run.log({f"{phase}/step": step, f"{phase}/loss/member_{member + 1:02d}": loss})

    def record(self, record: Record) -> None:
        """Put final metrics and cost by phase into the run's summary."""
        costs = {f"cost/{part}": values for part, values in record.cost.items() if part != "phases"}
        costs |= {f"cost/phase/{phase}": values for phase, values in record.cost.get("phases", {}).items()}
        flat = {f"{name}/{key}": value for name, values in costs.items() for key, value in (values or {}).items()}
        finite = {key: value for key, value in record.metrics.items() if value is not None and value == value}
        self._run.summary.update(finite | flat | {"status": record.status})


@contextmanager
def tracking(
    settings: LoggerSettings, config: Mapping[str, Any], folder: Path, name: str, group: str | None
) -> Iterator[WandbRun | None]:
    """Open a run and close it properly, also when the block fails; None where nothing is to be logged.

    Args:
        settings: Where to.
        config: The resolved configuration.
        folder: The run's folder, below which W&B writes.
        name: Name of the run.
        group: Group of the run, unless the settings name one.

    Raises:
        SettingError: If the server does not answer or there is no key, within seconds.
    """
    if settings.kind == "none":
        yield None
        return
    run = _start(settings, config, folder, name, group)
    try:
        yield WandbRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _start(
    settings: LoggerSettings, config: Mapping[str, Any], folder: Path, name: str, group: str | None
) -> "wandb.Run":
    import wandb

    if settings.mode == "online":
        _check_server(_server())
    try:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group or group,
            name=name,
            tags=settings.tags,
            config=dict(config),
            dir=folder,
            mode="online" if settings.mode == "online" else "offline",
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise SettingError("logger.mode", settings.mode, f"W&B refused to start: {reason}") from error


def _server() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)


def _check_server(url: str) -> None:
    """Raise unless the server accepts a connection: wandb itself would hang for minutes."""
    address = urlsplit(url)
    port = address.port or (80 if address.scheme == "http" else 443)
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # reached through a proxy, which only wandb knows to use
    try:
        socket.create_connection((address.hostname or "", port), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        rule = f"the W&B server {url} cannot be reached ({error}); use logger.mode=offline"
        raise SettingError("logger.mode", "online", rule) from error
