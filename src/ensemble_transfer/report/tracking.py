"""Weights & Biases: configuration, learning curves, metrics, cost and artifacts of a run.

The only module that imports wandb, and it does so only where a run asks for it. A server that cannot be used is an
error before the block of :func:`tracking` starts; after that it costs a warning, never a result.
"""

import http.client
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.report.artifacts import RunArtifact, artifacts_of, read_table
from ensemble_transfer.report.record import Record

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

KINDS = ("none", "wandb")
MODES = ("offline", "online")
_SECONDS_TO_ANSWER = 5.0
_BEST = {"max": ("accuracy", "auroc", "aupr"), "min": ("nll", "brier", "ece", "aurc")}


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
        artifacts: Whether source ensemble, shift vector, transferred ensemble and record are logged as artifacts.
        finish_timeout: Seconds that the end of a run waits for uploads; what is left stays on disk.
    """

    kind: str = "none"
    mode: str = "offline"
    project: str = "ensemble_transfer"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: bool = True
    finish_timeout: float = 30.0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        require(self.mode in MODES, "mode", self.mode, f"must be one of {', '.join(MODES)}")
        require(self.project != "", "project", self.project, "must not be empty")
        require(self.finish_timeout > 0, "finish_timeout", self.finish_timeout, "must be above 0")


class WandbRun:
    """A run on W&B: a :class:`~ensemble_transfer.training.progress.Tracker` that also takes the record.

    Whatever W&B raises becomes one warning, after which the run is no longer logged.
    """

    def __init__(self, run: "wandb.Run", settings: LoggerSettings, folder: Path) -> None:
        self._run, self._settings, self._folder = run, settings, folder
        self._phases: set[str] = set()
        self._lost = False

    def curve(self, phase: str, member: int, step: int, loss: float) -> None:
        """Log one point of a member's learning curve, against the phase's own steps."""
        if phase not in self._phases:
            self._phases.add(phase)
            self._guarded(lambda: self._define_phase(phase))
        self._guarded(lambda: self._run.log({f"{phase}/step": step, f"{phase}/loss/member_{member + 1:02d}": loss}))

    def record(self, record: Record) -> None:
        """Put final metrics and cost by phase into the run's summary, and log the run's files as artifacts."""
        self._guarded(lambda: self._summarise(record))
        if self._settings.artifacts and self._answers():
            for item in artifacts_of(record, self._folder):
                self._guarded(lambda item=item: self._log_artifact(item))  # type: ignore[misc]

    def comparison(self, folder: Path) -> None:
        """Log the table of a comparison's folder and its figures, those of single pairs of tasks below their name."""
        import wandb

        header, rows = read_table(folder / "table.csv")
        self._guarded(lambda: self._run.log({"comparison": wandb.Table(columns=list(header), data=rows)}))
        for path in sorted(folder.rglob("figures/*.png")):
            name = Path("figures", path.parent.parent.relative_to(folder), path.stem).as_posix()
            self._guarded(lambda name=name, path=path: self._run.log({name: wandb.Image(str(path))}))  # type: ignore[misc]

    def close(self, exit_code: int = 0) -> None:
        """End the run within the time that it may take; what could not be sent stays on disk."""
        self._answers()
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:  # noqa: BLE001  # a logger never costs a result
            self._warn(error)

    def _define_phase(self, phase: str) -> None:
        self._run.define_metric(f"{phase}/step", hidden=True)
        self._run.define_metric(f"{phase}/loss/*", step_metric=f"{phase}/step", summary="min,last")

    def _summarise(self, record: Record) -> None:
        costs = {f"cost/{part}": values for part, values in record.cost.items() if part != "phases"}
        costs |= {f"cost/phase/{phase}": values for phase, values in record.cost.get("phases", {}).items()}
        flat = {f"{name}/{key}": value for name, values in costs.items() for key, value in (values or {}).items()}
        finite = {key: value for key, value in record.metrics.items() if value is not None and value == value}
        for key in finite | flat:
            self._run.define_metric(key, summary=_aggregate(key))
        self._run.summary.update(finite | flat | {"status": record.status})

    def _log_artifact(self, item: RunArtifact) -> None:
        import wandb

        if item.consumed and self._settings.mode == "offline":
            return  # W&B cannot consume artifacts offline
        artifact = wandb.Artifact(item.name, item.type, metadata=dict(item.metadata))
        for name, path in item.files.items():
            artifact.add_file(str(path), name, policy="immutable", skip_cache=True)
        for name, text in item.texts.items():
            with artifact.new_file(name) as file:
                file.write(text)
        if item.consumed:
            self._run.use_artifact(artifact)
        else:
            self._run.log_artifact(artifact)

    def _answers(self) -> bool:
        """Return whether there is still something to log to."""
        if self._settings.mode == "online" and not self._lost:
            reason = _silence(_server())
            if reason is not None:
                self._warn(reason)
        return not self._lost

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001  # a logger never costs a result
            self._warn(error)

    def _warn(self, error: object) -> None:
        if not self._lost:
            self._lost = True
            reason = " ".join(str(error).split())
            where = Path(self._run.settings.sync_dir)
            log.warning("W&B is lost (%s); the run goes on, and 'wandb sync %s' sends what is on disk", reason, where)


@contextmanager
def tracking(
    settings: LoggerSettings,
    config: Mapping[str, Any],
    folder: Path,
    name: str,
    group: str | None,
    job_type: str | None = None,
) -> Iterator[WandbRun | None]:
    """Open a run and close it properly, also when the block fails; None where nothing is to be logged.

    Args:
        settings: Where to.
        config: The resolved configuration; the job type joins it as ``strategy_name``.
        folder: The run's folder, below which W&B writes.
        name: Name of the run.
        group: Group of the run, unless the settings name one.
        job_type: What runs of one kind have in common: the strategy.

    Raises:
        SettingError: If the server does not answer or there is no key, within seconds.
    """
    if settings.kind == "none":
        yield None
        return
    tracker = WandbRun(_start(settings, config, folder, name, group, job_type), settings, folder)
    try:
        yield tracker
    except BaseException:
        tracker.close(exit_code=1)
        raise
    tracker.close()


def log_comparison(settings: LoggerSettings, folder: Path, name: str) -> None:
    """Log a comparison's ``table.csv`` and figures as a run of job type ``comparison``.

    Whatever goes wrong is a warning: the comparison itself is on disk.

    Args:
        settings: Where to.
        folder: The comparison's folder, below which W&B writes.
        name: Name of the sweep, which becomes the run's group unless the settings name one.
    """
    try:
        with tracking(settings, {}, folder, f"comparison of {name}", name, "comparison") as tracker:
            if tracker is not None:
                tracker.comparison(folder)
    except SettingError as error:
        log.warning("the comparison is not on W&B: %s", error)


def _start(
    settings: LoggerSettings,
    config: Mapping[str, Any],
    folder: Path,
    name: str,
    group: str | None,
    job_type: str | None,
) -> "wandb.Run":
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if settings.mode == "online" and (reason := _silence(_server())) is not None:
        raise SettingError("logger.mode", "online", f"{reason}; use logger.mode=offline")
    try:
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group or group,
            job_type=job_type,
            name=name,
            tags=settings.tags,
            config=dict(config) | ({"strategy_name": job_type} if job_type else {}),
            dir=folder,
            mode="online" if settings.mode == "online" else "offline",
            reinit="finish_previous",
            settings=_limits(settings),
        )
    except (wandb.errors.Error, TimeoutError) as error:
        reason = " ".join(str(error).split())
        raise SettingError("logger.mode", settings.mode, f"W&B refused to start: {reason}") from error
    if run.settings.mode != settings.mode:  # nobody typed a key when asked for one
        run.finish()
        raise SettingError("logger.mode", settings.mode, "W&B has no key; run 'wandb login' or set WANDB_API_KEY")
    return run


def _limits(settings: LoggerSettings) -> "wandb.Settings":
    """Return settings under which wandb gives up on a dead server in seconds instead of hours."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=10,
        login_timeout=10,
        finish_timeout=settings.finish_timeout,
        finish_timeout_raises=True,
        x_graphql_retry_max=2,
        x_graphql_retry_wait_max_seconds=1,
        x_graphql_timeout_seconds=_SECONDS_TO_ANSWER,
        x_file_stream_retry_max=2,
        x_file_stream_retry_wait_max_seconds=1,
        x_file_stream_timeout_seconds=_SECONDS_TO_ANSWER,
        x_file_transfer_retry_max=2,
        x_file_transfer_retry_wait_max_seconds=1,
    )


def _server() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)


def _silence(url: str) -> str | None:
    """Return why a server does not answer; None if it does, whatever it says: wandb itself would wait for minutes."""
    body = b'{"query": "query Probe { __typename }"}'
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as error:
        error.close()  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # wandb has certificates of its own
            return f"the W&B server {url} cannot be reached ({reason})"
    except (ValueError, http.client.HTTPException) as error:
        return f"the W&B server {url} cannot be reached ({error})"
    return None


def _aggregate(key: str) -> str:
    """Return what the best value of a metric is; costs and all others count as they were last."""
    name = key.rsplit("/", 1)[-1]
    return next((best for best, names in _BEST.items() if name in names), "last")
