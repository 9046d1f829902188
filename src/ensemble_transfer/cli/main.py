"""``python -m ensemble_transfer``: the Hydra entry. Nothing here or above imports torch before a job starts."""

import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import current_process
from pathlib import Path
from uuid import uuid4

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer import __version__
from ensemble_transfer.cli import sweep
from ensemble_transfer.cli.arguments import VERSION, folders, names_strategy, normalised, require_text, runs, split
from ensemble_transfer.cli.command import command, interruptible, lost_output, print_error, wants_tracebacks
from ensemble_transfer.cli.finished import is_search, winner
from ensemble_transfer.cli.mistakes import choose_strategy, mistake
from ensemble_transfer.errors import Interrupted, RunError, SettingError, require_uninterrupted
from ensemble_transfer.machine import end_with, keep_freed_memory
from ensemble_transfer.report.escape import labelled
from ensemble_transfer.runs.presets import conf_folder

COMMANDS = ("compare", "evaluate", "extend", "export", "predict", "rivals")
"""Commands besides the main one; each is a module beside this one."""

INTERRUPTED = 128
"""Exit codes above this one say that a signal stopped the command."""


_FOLDER = "ENSEMBLE_TRANSFER_JOBS"
"""The variable that names the temporary folder of a launcher's processes."""


@dataclass
class _Process:
    """What this process knows of its command: where jobs run, what they have raised, and which errors were told."""

    jobs_inside: bool = False  # and not in processes that a launcher started
    failures: list[Exception] = field(default_factory=list)
    reported: list[Exception] = field(default_factory=list)


_process = _Process()


def program() -> int:
    """Run the program ``ensemble-transfer``, which finds modules in the current folder, as ``python -m`` does."""
    if not sys.flags.safe_path:
        with suppress(OSError):  # a folder that is gone; main says so
            sys.path.insert(0, str(Path.cwd()))
    return main()


@command
def main() -> int:
    """Run the command line and return its exit code.

    It is 0, 1 if a job of a sweep failed, 2 for an error, 130 after Ctrl-C and 143 after SIGTERM. The other commands
    are reached by their name, as in ``ensemble-transfer rivals RUN``.
    """
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        code: int = import_module(f"ensemble_transfer.cli.{arguments[0]}").main(arguments[1:])
        return code
    if VERSION in split(arguments)[0]:
        sys.stdout.write(f"ensemble_transfer {__version__}\n")
        return 0
    sweep.running = sweep.Running()
    code = _hydra(arguments)
    config = sweep.running.config
    if config is None:
        return code
    best = winner(Path(config.hydra.sweep.dir)) if sweep.running.ended and is_search(config.hydra) else None
    code = max(code, _hydra(best)) if best is not None else code
    compared = sweep.finish(config, interrupted=code > INTERRUPTED)
    return code if compared is None or code > INTERRUPTED else max(1 if code else 0, compared)


def _hydra(arguments: list[str]) -> int:
    """Let Hydra run a command line, and return the exit code before any comparison."""
    try:
        require_text(os.getcwd(), *arguments)  # noqa: PTH109  # Path would fail where there is no such folder
        given = normalised(arguments)
        if runs(given) and not names_strategy(given):
            raise choose_strategy(folders(conf_folder(), given))
        with _settled():
            _run(given)
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.exit_code
    except (RunError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        lost = isinstance(error, OSError) and not isinstance(error, HydraException) and lost_output(error)
        if lost or wants_tracebacks():
            raise
        if error not in _process.reported:
            print_error(mistake(error, conf_folder(), arguments), whole=True)
        return 2
    return 0


def _run(arguments: list[str]) -> None:
    """Let Hydra run arguments, and raise the first error of a job."""
    task = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_job)
    sweep.running.overrides = split(arguments)[1]
    sys.argv[1:] = arguments
    task()
    if _process.failures:
        raise _process.failures[0]


@contextmanager
def _settled() -> Iterator[None]:
    """Let Hydra hand its errors to us, and leave the process as it was.

    A folder is named for a launcher's processes, which make it: they are killed with their sweep and remove nothing.
    """
    folder = str(Path(tempfile.gettempdir(), f"ensemble_transfer-{uuid4().hex}"))
    ours = {"HYDRA_FULL_ERROR": "1", _FOLDER: folder}  # Hydra would print its errors instead
    before, raising, arguments = {name: os.environ.get(name) for name in ours}, logging.raiseExceptions, sys.argv[1:]
    os.environ.update(ours)
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, prints no traceback
    _process.jobs_inside, _process.failures, _process.reported = True, [], []
    try:
        yield
    finally:
        _process.jobs_inside = False
        sys.argv[1:] = arguments
        logging.raiseExceptions = raising
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
        shutil.rmtree(folder, ignore_errors=True)


def _job(cfg: DictConfig) -> float:
    """Run one job; imports the framework only now.

    In a process that a launcher started, errors are raised, so that the launcher knows. In this one they are left to
    :func:`main`: Hydra would print a line of its own before ours.
    """
    keep_freed_memory()  # a launcher may have started this process
    own = HydraConfig.get()
    marker = sweep.marker(cfg, own)
    if current_process().name.startswith("Loky"):  # it would compute on for minutes when the sweep is killed
        folder = tempfile.tempdir = os.environ["TMPDIR"] = os.environ[_FOLDER]
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        end_with(os.getppid(), folder)
    try:
        with interruptible():
            require_uninterrupted()
            if "strategy" not in cfg:
                raise choose_strategy([conf_folder()])
            if marker is not None and marker.exists():
                return math.inf
            from ensemble_transfer.cli.job import run_job

            if own.mode != RunMode.MULTIRUN:
                return run_job(cfg, own)
            if not _process.jobs_inside:
                OmegaConf.update(cfg, "trainer.progress", False)  # bars of several processes overwrite each other
            with labelled(f"{own.runtime.choices['strategy']}, seed {OmegaConf.select(cfg, 'seed')}: "):
                return run_job(cfg, own)
    except (SettingError, RunError) as error:
        if marker is not None:
            with suppress(OSError):
                marker.touch()
        if own.mode == RunMode.MULTIRUN:
            print_error(f"{error} (job {Path(own.runtime.output_dir).name})", whole=True)
            _process.reported.append(error)
        if not _process.jobs_inside:
            raise
        _process.failures.append(error)
        return math.inf
