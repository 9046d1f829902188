"""One job: from a composed configuration to the files of a run."""

import logging
import os
import shlex
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.cli.arguments import CONFIG_DIR
from ensemble_transfer.cli.build import as_recorded, build_experiment, build_logger, plain, resolved
from ensemble_transfer.cli.finished import finished, finished_in, identity
from ensemble_transfer.cli.search import OBJECTIVE, is_search
from ensemble_transfer.errors import Interrupted, RunError, SettingError, require
from ensemble_transfer.layout import HYDRA, RECORD, TRACEBACK
from ensemble_transfer.report import summary
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive
from ensemble_transfer.report.tracked_run import TrackedRun
from ensemble_transfer.report.tracking import LoggerSettings, tracking
from ensemble_transfer.runs.run import Origin, run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A job as Hydra hands it over."""

    cfg: DictConfig
    hydra: HydraConf

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.hydra.runtime.output_dir)

    @property
    def sweep(self) -> Path | None:
        """The sweep's folder; None for a single run."""
        return Path(self.hydra.sweep.dir) if self.hydra.mode == RunMode.MULTIRUN else None

    @property
    def command(self) -> str:
        """The command that repeats the job."""
        overrides: Any = OmegaConf.to_container(self.hydra.overrides.task)  # as written: nothing is resolved
        own = [source.path for source in self.hydra.runtime.config_sources if source.provider == "command-line"]
        options = [word for folder in own for word in (CONFIG_DIR[0], folder)]
        return shlex.join(["python", "-m", "ensemble_transfer", *options, *overrides])

    def finished_before(self, config: Mapping[str, Any]) -> Record | None:
        """Return the record of this job if its sweep has finished it; a search may have done so in any folder.

        Args:
            config: The job's configuration, as its record keeps it.
        """
        if self.sweep is None:
            return None
        if is_search(self.hydra):
            return finished_in(self.sweep).get(identity(config))
        record, what = finished(self.folder / RECORD)
        return record if what == decisive(config) else None

    def unfinished(self) -> Record:
        """Return the record of the job if it does not finish, from what is known without building anything."""
        chosen, config = self.hydra.runtime.choices, plain(self.cfg)
        with suppress(SettingError):
            config = plain(resolved(self.cfg))
        strategy, dataset, backbone = (str(chosen.get(group)) for group in ("strategy", "dataset", "backbone"))
        seed, known = config.get("seed"), config.get("ensemble")
        seed = seed if isinstance(seed, int) else None  # which only a run that has finished must have
        ensemble = {name: known.get(name) for name in ("size", "lineage")} if isinstance(known, Mapping) else {}
        own = {"config": config, "command": self.command}
        return Record("failed", strategy, seed, dataset, backbone, ensemble, **own)  # type: ignore[arg-type]  # seed


def run_job(cfg: DictConfig, hydra: HydraConf) -> float:
    """Run one job, leave its record also when it does not finish, and return its calibrated NLL on validation.

    Raises:
        SettingError: For a user's mistake.
        RunError: For any other error; its traceback is kept in the run's folder.
        Interrupted: For Ctrl-C and SIGTERM.
    """
    job = Job(cfg, hydra)
    with recorded(job.folder, job.unfinished()):
        return _run(job)


@contextmanager
def recorded(folder: Path, unfinished: Record) -> Iterator[None]:
    """Leave a record in a folder if the block does not finish, unless a finished run is there.

    Args:
        folder: The folder.
        unfinished: What is known of the run, without its status and error.

    Raises:
        SettingError: As the block raises it.
        RunError: For any other error of the block.
        Interrupted: If a signal stopped the block.
    """
    try:
        yield
    except (SettingError, RunError) as error:
        _leave(folder, replace(unfinished, status="failed", error=str(error)))
        raise
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        stop = error
        if not isinstance(stop, Interrupted):  # Lightning exits with 0 on SIGTERM, where it handles it
            terminated = isinstance(error, SystemExit) and not error.code
            stop = Interrupted(signal.SIGTERM if terminated else signal.SIGINT)
        _leave(folder, replace(unfinished, status="interrupted", error=str(stop)))
        raise stop from None
    except Exception as error:  # whatever happened, the record must say so
        _require_folders(folder)
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trace = "".join(traceback.format_exception(error))
        kept = _leave(folder, replace(unfinished, status="failed", error=line), trace)
        raise RunError(f"the run failed with {line}; {kept}") from error


def _require_folders(folder: Path) -> None:
    """Raise a RunError if somebody has removed the folder of a run, or the one in which it was started."""
    try:
        Path.cwd()
        gone = None if folder.is_dir() else folder
    except FileNotFoundError:
        gone = Path(os.environ.get("PWD", "."))
    if gone is not None:
        raise RunError(f"{gone} was removed while the run was going on; finished fits are kept in the store")


def show(record: Record, folder: Path, printed: bool = True) -> None:
    """Write the summary of a finished run, and print it unless that is not wanted.

    Raises:
        RunError: If that is impossible. The run has finished all the same.
    """
    try:
        summary.write(record.printable(), folder, printed=printed)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"the run has finished, but its summary cannot be written: {error.strerror}") from error


def tracked(about: TrackedRun, logger: LoggerSettings, command: str, compute: Callable[[Origin], Record]) -> Record:
    """Return the record of a run that is followed by a logger, which takes the record too.

    Args:
        about: Description of the run.
        logger: Where it is logged.
        command: The command that repeats it.
        compute: The run.
    """
    with tracking(logger, about) as tracker:
        record = compute(Origin(about.config, command, tracker))
        if tracker is not None:
            tracker.record(record)
    return record


def _leave(folder: Path, record: Record, trace: str = "") -> str:
    """Write the record of a run that did not finish, and its traceback; return where the traceback is."""
    try:
        if finished(folder / RECORD)[0] is None:
            record.save(folder)
            (folder / TRACEBACK).unlink(missing_ok=True)
        if trace:
            (folder / TRACEBACK).write_text(trace, encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        return f"nothing can be written into {folder} ({reason.strerror})"
    return f"its traceback is in {folder / TRACEBACK}"


def _run(job: Job) -> float:
    cfg = resolved(job.cfg)
    config = as_recorded(job.cfg)
    if (done := job.finished_before(config)) is not None:
        log.info("not repeated: this sweep has finished %s", done.command)
        return _objective(done)
    experiment = build_experiment(cfg)  # every mistake shows before anything is written
    logger = build_logger(cfg)
    require_free(job.folder, config, "hydra.run.dir" if job.sweep is None else "hydra.sweep.dir")
    _keep_configuration(job)
    chosen = job.hydra.runtime.choices
    group = job.sweep.name if job.sweep is not None else f"{chosen['dataset']}, {chosen['backbone']}"
    strategy = str(chosen["strategy"])
    about = TrackedRun(job.folder, f"{strategy}, seed {cfg.seed}", group, strategy, config)
    record = tracked(about, logger, job.command, lambda origin: run(experiment, job.folder, origin))
    show(record, job.folder, printed=job.sweep is None)
    if job.sweep is not None:
        log.info("%s (job %s)", summary.result(record), job.folder.name)
    return _objective(record)


def require_free(folder: Path, config: Mapping[str, Any], setting: str) -> None:
    """Raise a SettingError if a run of another configuration has finished in a folder, or if it cannot be written."""
    record, what = finished(folder / RECORD)
    said = record and f"holds a finished run of other settings ({record.strategy}, seed {record.seed})"
    free = record is None or what == decisive(config)
    require(free, setting, str(folder), f"{said}, which is not replaced; choose another folder with {setting}=...")
    require(os.access(folder, os.W_OK | os.X_OK), setting, str(folder), "must be a folder that can be written")


def _keep_configuration(job: Job) -> None:
    """Write what Hydra would have written before the settings were checked (``hydra.output_subdir`` is null)."""
    folder = job.folder / HYDRA
    folder.mkdir(exist_ok=True)
    parts = {"config": job.cfg, "hydra": OmegaConf.create({"hydra": job.hydra}), "overrides": job.hydra.overrides.task}
    for name, part in parts.items():
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(part), encoding="utf-8")


def _objective(record: Record) -> float:
    """Return what a sweeper minimises; infinity where it is undefined."""
    nll = record.metrics[OBJECTIVE]
    return float("inf") if nll is None else nll
