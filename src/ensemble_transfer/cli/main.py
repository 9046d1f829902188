"""``python -m ensemble_transfer``: the Hydra entry. Nothing here or above imports torch before a job starts."""

import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli import messages, sweep
from ensemble_transfer.cli.command import command, interruptible
from ensemble_transfer.errors import Interrupted, RunError, SettingError

INTERRUPTED = 128
"""Exit codes above this one say that a signal stopped the command."""


@dataclass
class _Process:
    """What this process knows of the command that it runs.

    Attributes:
        jobs_inside: Whether jobs run in this very process, not in one that a launcher started.
        failures: What jobs inside have raised. Hydra would print a line of its own for what reaches it.
    """

    jobs_inside: bool = False
    failures: list[Exception] = field(default_factory=list)


_process = _Process()


@command
def main() -> int:
    """Run the command line and return its exit code.

    It is 0, 1 if a job of a sweep failed, 2 for an error, 130 after Ctrl-C and 143 after SIGTERM.
    """
    sweep.remembered.clear()
    code = _hydra()
    if not sweep.remembered:
        return code
    compared = sweep.finish(sweep.remembered[0])
    return code if code > INTERRUPTED else max(1 if code else 0, compared)


def _hydra() -> int:
    """Let Hydra run the command line, and return the exit code before any comparison."""
    wanted, raising = os.environ.get("HYDRA_FULL_ERROR"), logging.raiseExceptions
    arguments = sys.argv[1:]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands its errors to us instead of printing them
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, prints no traceback
    _process.jobs_inside = True
    _process.failures.clear()
    try:
        require_text(os.getcwd(), *arguments)  # noqa: PTH109  # Path would fail where there is no such folder
        sys.argv[1:] = normalised(arguments)
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_job)()
        if _process.failures:
            raise _process.failures[0]
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.exit_code
    except (SettingError, RunError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError) or wanted not in (None, "", "0"):
            raise
        sys.stderr.write(f"error: {messages.one_line(error, conf_folder(), sys.argv[1:])}\n")
        return 2
    finally:
        _process.jobs_inside = False
        logging.raiseExceptions = raising
        if wanted is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = wanted
    return 0


def normalised(arguments: list[str]) -> list[str]:
    """Return arguments as Hydra takes them.

    ``strategy=``, ``+strategy=`` and ``++strategy=`` all become ``+strategy=``, which is right for a group without a
    default. Options such as ``-m`` move to the front, since Hydra does not take them between overrides. A sweep gets
    a folder that the same command finds again.
    """
    options, overrides = _options_and_overrides(arguments)
    overrides = [re.sub(r"^\+{0,2}strategy=", "+strategy=", override) for override in overrides]
    if {"-m", "--multirun"} & set(options):
        rest = [option for option in options if option not in ("-m", "--multirun")]
        return ["-m", *rest, *sweep.with_folder(overrides)]
    return [*options, *overrides]


_WITH_VALUE = frozenset(
    ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c")
)
_WITH_CHOICE = ("--info", "-i")
"""Options of Hydra that take a value, and the one that may take one."""


def _options_and_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    options: list[str] = []
    overrides: list[str] = []
    before = ""
    for argument in arguments:
        chosen = before in _WITH_CHOICE and "=" not in argument
        is_option = argument.startswith("-") or before in _WITH_VALUE or chosen
        (options if is_option else overrides).append(argument)
        before = argument if is_option and before not in _WITH_VALUE else ""
    return options, overrides


def conf_folder() -> Path:
    """Return the folder of the configuration: inside the package when installed, else in the checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def _job(cfg: DictConfig) -> float:
    """Run one job; imports the framework only now.

    In a process that a launcher started, errors are raised, so that the launcher knows. In this one they are left to
    :func:`main`: Hydra would print a line of its own before ours.
    """
    try:
        with interruptible():
            if "strategy" not in cfg:
                raise RunError(f"choose a strategy:\n{messages.strategies(conf_folder())}")
            from ensemble_transfer.cli.job import run_job

            return run_job(cfg, HydraConfig.get())
    except (SettingError, RunError, OmegaConfBaseException) as error:
        if not _process.jobs_inside:
            raise
        _process.failures.append(error)
        return math.inf


def require_text(*texts: str) -> None:
    """Raise a SettingError for a text of the command line that has no Unicode in this locale."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise SettingError("argument", os.fsencode(text), "is not text in this locale; set PYTHONUTF8=1") from None
