"""Track runs: configuration, learning curves, metrics and cost, with W&B (artifacts too) or a Lightning logger.

This is the only module that imports wandb, and it imports wandb only if a run is to be logged. If the server cannot be
used at the start, :func:`tracking` raises an error. A server that fails later costs a warning, never a result.
Lightning's ``WandbLogger`` promises neither, and is not to be imported here: Lightning is for ``training`` alone.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_transfer import machine
from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.layout import ERRORS
from ensemble_transfer.report.gallery import read_errors
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracked_run import RUN_ID, LoggedRun, RunTracker, TrackedRun, scalars

if TYPE_CHECKING:
    import wandb

    from ensemble_transfer.report.artifacts import RunArtifact

log = logging.getLogger(__name__)

KINDS = ("none", "wandb", "csv", "tensorboard", "lightning")
MODES = ("offline", "online")


@dataclass(frozen=True)
class LoggerSettings:
    """Where runs are logged, besides their record.

    Attributes:
        kind: ``none``, ``wandb``, ``csv``, ``tensorboard``, or ``lightning`` for a logger of your own. CSV and
            TensorBoard write into the folder of that name below the run's. The settings that follow are W&B's.
        mode: ``offline`` writes into the run's folder; ``online`` sends to the server and needs a key.
        project: W&B project.
        entity: Team or user; null for the key's default.
        group: Group of the run; null for the sweep's folder, or for dataset and backbone outside a sweep.
        tags: Tags of the run, besides its strategy, its budget and its pair of tasks.
        artifacts: Whether to log source ensemble, shift vector, transferred ensemble and record as artifacts.
        finish_timeout: Seconds to wait for uploads at the end of a run; anything left stays on disk.
        lightning: For the kind ``lightning``: any Lightning logger.
    """

    kind: str = "none"
    mode: str = "offline"
    project: str = "ensemble_transfer"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: bool = True
    finish_timeout: float = 30.0
    lightning: Any = None

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        require(self.mode in MODES, "mode", self.mode, f"must be one of {', '.join(MODES)}")
        require(self.project != "", "project", self.project, "must not be empty")
        require(self.finish_timeout > 0, "finish_timeout", self.finish_timeout, "must be above 0")
        own, given = self.kind == "lightning", self.lightning
        rule = "must be a Lightning logger with kind=lightning, and null with another kind"
        require(hasattr(given, "log_metrics") if own else given is None, "lightning", given, rule)
        if self.kind == "tensorboard":
            from ensemble_transfer.training.loggers import has_tensorboard

            rule = "needs the package tensorboard, which is missing: pip install tensorboard"
            require(has_tensorboard(), "kind", self.kind, rule)


class WandbRun(RunTracker):
    """A run at W&B. A restarted run replays its finished fits; what it logged before it stopped is skipped."""

    def __init__(self, run: "wandb.Run", settings: LoggerSettings, folder: Path) -> None:
        self._run, self._settings, self.folder = run, settings, folder
        self.lost = "W&B", f". 'wandb sync {run.settings.sync_dir}' sends what is on disk"
        self._defined: set[str] = set()
        self._logged = dict(run.summary) if run.resumed else {}

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step of a phase as one row, against the steps of the phase."""
        axis = f"{phase}/step"
        named = {f"{phase}/{name}": value for name, value in values.items()}
        self._define(axis, hidden=True)
        self._define(f"{phase}/loss/*", step_metric=axis, summary="min,last")
        for name in named:
            if "/loss/" not in name:
                self._define(name, step_metric=axis)
        done = self._logged.get(axis, -1)
        row = {name: value for name, value in named.items() if name not in self._logged or step > done}
        if row:
            self._guarded(self._run.log, {axis: step} | row)

    def _define(self, name: str, **options: Any) -> None:  # noqa: ANN401
        if name not in self._defined:
            self._defined.add(name)
            self._guarded(self._run.define_metric, name, **options)

    def record(self, record: Record) -> None:
        """Write metrics and cost to the run's summary, tag it with its tasks, and log its files as artifacts."""
        self._guarded(lambda: self._run.summary.update(scalars(record) | {"status": record.status}))
        self._guarded(lambda: setattr(self._run, "tags", _tags(*(self._run.tags or ()), record.dataset)))
        self._guarded(self._log_errors)
        from ensemble_transfer.report.artifacts import artifacts_of

        if self._settings.artifacts and self._answers():
            for item in artifacts_of(record, self.folder):
                self._guarded(self._log_artifact, item)

    def _log_errors(self) -> None:
        """Log the images of ``errors.html`` as a table."""
        import wandb
        from PIL import Image

        shown = read_errors(self.folder / ERRORS)
        columns: list[str | int] = ["image", "truth", "predicted", "probability", "place"]
        rows = [[wandb.Image(Image.open(BytesIO(s.png))), s.truth, s.predicted, s.probability, s.place] for s in shown]
        if rows:
            self._run.log({"errors": wandb.Table(columns=columns, data=rows)})

    def comparison(self) -> None:
        """Log ``table.csv`` and the figures in the folder of a comparison and in those of its pairs of tasks."""
        import wandb
        from pandas import read_csv

        file = self.folder / "table.csv"
        if file.read_text(encoding="utf-8").strip():  # else no job has finished
            self._guarded(lambda: self._run.log({"comparison": wandb.Table(dataframe=read_csv(file))}))
        for path in sorted(self.folder.rglob("figures/*.png")):
            name = Path("figures", path.parent.parent.relative_to(self.folder), path.stem).as_posix()
            self._guarded(self._run.log, {name: wandb.Image(str(path))})

    def close(self, exit_code: int = 0) -> None:
        """End the run within the timeout; anything that was not sent stays on disk."""
        self._answers()
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:  # noqa: BLE001  # a logger never costs a result
            self._warn(error)

    def _log_artifact(self, item: "RunArtifact") -> None:
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
        """Return whether the run can still be logged."""
        if self._settings.mode == "online" and not self._lost and (reason := _silence()) is not None:
            self._warn(reason)
        return not self._lost


@contextmanager
def tracking(settings: LoggerSettings, about: TrackedRun) -> Iterator[RunTracker | None]:
    """Open a run at a logger, and close it when the block ends or fails; yield None if nothing is to be logged.

    A W&B run that was stopped continues when it is started again in the same folder with the same configuration. The
    caller's own active W&B run is left open.

    Raises:
        SettingError: If the server does not answer or there is no key, within seconds.
    """
    if settings.kind == "none":
        yield None
        return
    tracker: RunTracker
    if settings.kind == "wandb":
        tracker = WandbRun(_start(settings, about), settings, about.folder)
    elif settings.kind == "lightning":
        tracker = LoggedRun(settings.lightning, about)
    else:
        from ensemble_transfer.training.loggers import file_logger

        tracker = LoggedRun(file_logger(settings.kind, about.folder), about, settings.kind)
    try:
        yield tracker
    except BaseException:
        tracker.close(exit_code=1)
        raise
    tracker.close()


def log_comparison(settings: LoggerSettings, folder: Path, sweep: str) -> None:
    """Log table and figures in a comparison's folder as a run of job type ``comparison``, in the group of the sweep.

    Errors become warnings, since the comparison itself is on disk. Other loggers log runs alone.
    """
    if settings.kind != "wandb":
        return
    try:
        with tracking(settings, TrackedRun(folder, f"comparison of {sweep}", sweep, "comparison")) as tracker:
            assert isinstance(tracker, WandbRun)
            tracker.comparison()
    except SettingError as error:
        log.warning("the comparison is not on W&B: %s", error)


def _start(settings: LoggerSettings, about: TrackedRun) -> "wandb.Run":
    import wandb

    if settings.mode == "online" and (reason := _silence()) is not None:
        raise SettingError("logger.mode", "online", f"{reason}; use logger.mode=offline")
    online, limits = settings.mode == "online", _limits(settings)
    wandb.termsetup(limits, None)  # silence the login, which ignores the settings of the run
    try:
        run = wandb.init(
            id=about.id(),
            resume="allow" if online else None,  # W&B cannot resume offline
            project=settings.project,
            entity=settings.entity,
            group=settings.group or about.group,
            job_type=about.job_type,
            name=about.name,
            tags=_tags(*settings.tags, *about.tags),
            config=dict(about.config) | {"strategy_name": about.job_type},
            dir=about.folder,
            mode="online" if online else "offline",
            reinit="create_new",
            settings=limits,
        )
    except (wandb.errors.Error, TimeoutError) as error:
        reason = " ".join(str(error).split())
        again = f"; delete {about.folder / RUN_ID} to start a new W&B run" if "delete" in reason else ""
        raise SettingError("logger.mode", settings.mode, f"W&B refused to start: {reason}{again}") from error
    finally:
        wandb.termsetup(wandb.setup().settings, None)
    if run.settings.mode != settings.mode:  # nobody typed a key when asked for one
        run.finish()
        raise SettingError("logger.mode", settings.mode, "W&B has no key; run 'wandb login' or set WANDB_API_KEY")
    return run


def _tags(*tags: str) -> tuple[str, ...]:
    """Return tags as W&B takes them: each once, and of 64 characters at most."""
    return tuple(dict.fromkeys(tag[:64] for tag in tags))


def _limits(settings: LoggerSettings) -> "wandb.Settings":
    """Return settings with which wandb gives up on a dead server in seconds instead of hours."""
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
        x_graphql_timeout_seconds=machine.PATIENCE,
        x_file_stream_retry_max=2,
        x_file_stream_retry_wait_max_seconds=1,
        x_file_stream_timeout_seconds=machine.PATIENCE,
        x_file_transfer_retry_max=2,
        x_file_transfer_retry_wait_max_seconds=1,
    )


def _silence() -> str | None:
    """Return a message if the W&B server does not answer; wandb itself would wait for minutes."""
    import wandb

    url = wandb.setup().settings.base_url
    return None if machine.answers(url) else f"the W&B server {url} cannot be reached"
