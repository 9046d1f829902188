"""One job: from a composed configuration to the files of a run.

What needs no torch is checked before torch is imported.
"""

import logging
import os
import shlex
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ensemble_transfer.cli.arguments import CONFIG_DIR
from ensemble_transfer.cli.changes import outdated
from ensemble_transfer.cli.configuration import as_recorded, as_written, plain, resolved, without_references
from ensemble_transfer.cli.finished import OBJECTIVE, finished, finished_in, identity, is_search
from ensemble_transfer.cli.shape import check_shape
from ensemble_transfer.errors import Interrupted, RunError, SettingError, interruption, require
from ensemble_transfer.layout import HYDRA, RECORD, TRACEBACK, owned
from ensemble_transfer.report import summary
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.tracked_run import TrackedRun

if TYPE_CHECKING:
    from ensemble_transfer.report.tracking import LoggerSettings
    from ensemble_transfer.runs.run import Origin

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, hydra: HydraConf) -> float:
    """Run one job, leave its record also when it does not finish, and return its calibrated NLL on validation.

    Raises:
        SettingError: For a user's mistake.
        RunError: For any other error; its traceback is kept in the run's folder.
        Interrupted: For Ctrl-C and SIGTERM.
    """
    folder, setting = Path(hydra.runtime.output_dir), f"hydra.{'sweep' if _is_swept(hydra) else 'run'}.dir"
    with owned(folder, setting):
        return _run_in(folder, setting, cfg, hydra)


def _is_swept(hydra: HydraConf) -> bool:
    return bool(hydra.mode == RunMode.MULTIRUN)


def _run_in(folder: Path, setting: str, cfg: DictConfig, hydra: HydraConf) -> float:
    swept, chosen = _is_swept(hydra), hydra.runtime.choices
    with recorded(folder, _unfinished(plain(cfg), hydra)):
        check_shape(without_references(cfg), chosen)
        settings = resolved(cfg)
    written = as_written(settings, cfg)
    unfinished = _unfinished(written, hydra)
    with recorded(folder, unfinished):
        from ensemble_transfer.cli.build import build_experiment, build_logger

        logger, experiment = build_logger(settings), build_experiment(settings)  # mistakes show here
        from ensemble_transfer.runs.run import run

        config = as_recorded(written)
        tried = finished_in(Path(hydra.sweep.dir)) if swept and is_search(hydra) else {}
        before = next(iter(tried.get(identity(config), [])), None)
        if before and not outdated([(config, before)]) and (done := finished(before)):
            log.info("not repeated: this search has finished %s", done.command)
            return _objective(done)
        require_free(folder, config, setting)
        _keep_configuration(cfg, hydra, folder)
    group = Path(hydra.sweep.dir).name if swept else f"{chosen['dataset']}, {chosen['backbone']}"
    strategy = str(chosen["strategy"])
    about = TrackedRun(folder, f"{strategy}, seed {experiment.seed}", group, strategy, config)
    unfinished = replace(unfinished, config=config)
    record = follow(about, logger, unfinished, lambda origin: run(experiment, folder, origin), printed=not swept)
    if swept:
        log.info("%s (job %s)", summary.result(record), folder.name)
    return _objective(record)


def follow(
    about: TrackedRun,
    logger: "LoggerSettings",
    unfinished: Record,
    compute: "Callable[[Origin], Record]",
    printed: bool = True,
) -> Record:
    """Return the record of a run that a logger follows, write its summary, and leave a record if it does not finish."""
    from ensemble_transfer.report.tracking import tracking
    from ensemble_transfer.runs.run import Origin

    with recorded(about.folder, unfinished), tracking(logger, about) as tracker:
        record = compute(Origin(about.config, unfinished.command, tracker))
        if tracker is not None:
            tracker.record(record)
    try:
        summary.write(record.printable(), about.folder)
        if printed:
            summary.show(record.printable(), about.folder, whole=about.config.get("verbose") is True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"the run has finished, but its summary cannot be written: {error.strerror}") from error
    return record


def _command(hydra: HydraConf) -> str:
    """Return the command that repeats a job."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.task)  # as written: nothing is resolved
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [word for folder in own for word in (CONFIG_DIR[0], folder)]
    return shlex.join(["python", "-m", "ensemble_transfer", *options, *overrides])


def _unfinished(config: Mapping[str, Any], hydra: HydraConf) -> Record:
    """Return the record of a job if it does not finish, from what is known without building anything."""
    strategy, dataset, backbone = (
        str(hydra.runtime.choices.get(group)) for group in ("strategy", "dataset", "backbone")
    )
    seed, known = config.get("seed"), config.get("ensemble")
    seed = seed if isinstance(seed, int) else None  # which only a run that has finished must have
    ensemble = {name: known.get(name) for name in ("size", "lineage")} if isinstance(known, Mapping) else {}
    names = strategy, seed, dataset, backbone
    return Record("failed", *names, ensemble, config=config, command=_command(hydra))  # type: ignore[arg-type]  # seed


@contextmanager
def recorded(folder: Path, unfinished: Record) -> Iterator[None]:
    """Leave a record in a folder if the block does not finish, unless a finished run is there.

    Raises:
        SettingError: As the block raises it.
        RunError: For any other error of the block.
        Interrupted: If a signal stopped the block.
    """
    try:
        yield
    except BaseException as error:  # whatever happened, the record must say so
        if (stop := _interruption(error)) is not None:
            _leave(folder, replace(unfinished, status="interrupted", error=str(stop)))
            raise stop from None
        if isinstance(error, SettingError | RunError):
            _leave(folder, replace(unfinished, status="failed", error=str(error)))
            raise
        _require_folders(folder)
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trace = "".join(traceback.format_exception(error))
        kept = _leave(folder, replace(unfinished, status="failed", error=line), trace)
        raise RunError(f"the run failed with {line}; {kept}") from error


def _interruption(error: BaseException) -> Interrupted | None:
    """Return the interruption that an error stands for; None if it is a failure."""
    stop = error if isinstance(error, Interrupted) else interruption()
    if stop is None and isinstance(error, KeyboardInterrupt | SystemExit):
        # Lightning exits with 0 on SIGTERM, where it handles it
        terminated = isinstance(error, SystemExit) and not error.code
        stop = Interrupted(signal.SIGTERM if terminated else signal.SIGINT)
    return stop


def _require_folders(folder: Path) -> None:
    """Raise a RunError if somebody has removed the folder of a run, or the one in which it was started."""
    try:
        Path.cwd()
        gone = None if folder.is_dir() else folder
    except FileNotFoundError:
        gone = Path(os.environ.get("PWD", "."))
    if gone is not None:
        raise RunError(f"{gone} was removed while the run was going on; finished fits are kept in the store")


def _leave(folder: Path, record: Record, trace: str = "") -> str:
    """Write the record of a run that did not finish, and its traceback; return where the traceback is."""
    try:
        if finished(folder / RECORD) is None:
            record.save(folder)
            (folder / TRACEBACK).unlink(missing_ok=True)
        if trace:
            (folder / TRACEBACK).write_text(trace, encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        return f"nothing can be written into {folder} ({reason.strerror})"
    return f"its traceback is in {folder / TRACEBACK}"


def require_free(folder: Path, config: Mapping[str, Any], setting: str) -> None:
    """Raise a SettingError if a run of another configuration has finished in a folder, or if it cannot be written."""
    record = finished(folder / RECORD)
    said = record and f"holds a finished run of other settings ({record.strategy}, seed {record.seed})"
    free = record is None or identity(record.config) == identity(config)
    require(free, setting, str(folder), f"{said}, which is not replaced; choose another folder with {setting}=...")
    require(os.access(folder, os.W_OK | os.X_OK), setting, str(folder), "must be a folder that can be written")


def _keep_configuration(cfg: DictConfig, hydra: HydraConf, folder: Path) -> None:
    """Write what Hydra would have written before the settings were checked (``hydra.output_subdir`` is null)."""
    (folder / HYDRA).mkdir(exist_ok=True)
    parts = {"config": cfg, "hydra": OmegaConf.create({"hydra": hydra}), "overrides": hydra.overrides.task}
    for name, part in parts.items():
        (folder / HYDRA / f"{name}.yaml").write_text(OmegaConf.to_yaml(part), encoding="utf-8")


def _objective(record: Record) -> float:
    """Return what a sweeper minimises; infinity where it is undefined."""
    nll = record.metrics[OBJECTIVE]
    return float("inf") if nll is None else nll
