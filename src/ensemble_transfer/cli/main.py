"""``python -m ensemble_transfer``: the Hydra entry. Nothing here or above imports torch before a job starts."""

import math
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.cli import messages, sweep
from ensemble_transfer.errors import RunError, SettingError

_failure: list[Exception] = []


def main() -> int:
    """Run the command line and return its exit code: 0, 1 if a job of a sweep failed, 2 for an error."""
    sweep.remembered.clear()
    _failure.clear()
    sys.argv[1:] = normalised(sys.argv[1:])
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands its errors to us instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_job)()
        if _failure:
            raise _failure[0]
        code = 0
    except (SettingError, RunError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if traceback_wanted:
            raise
        sys.stderr.write(f"error: {messages.one_line(error, conf_folder(), sys.argv[1:])}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where this one stopped\n")
        return 130
    if sweep.remembered:
        return max(1 if code else 0, sweep.finish(sweep.remembered[0]))
    return code


def normalised(arguments: list[str]) -> list[str]:
    """Return arguments as Hydra takes them.

    ``strategy=``, ``+strategy=`` and ``++strategy=`` all become ``+strategy=``, which is right for a group without a
    default; ``-m`` moves to the front, since Hydra does not take it between overrides, and a sweep gets a folder that
    the same command finds again.
    """
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    rest = [re.sub(r"^\+{0,2}strategy=", "+strategy=", a) for a in arguments if a not in ("-m", "--multirun")]
    return flags[:1] + (sweep.with_folder(rest) if flags else rest)


def conf_folder() -> Path:
    """Return the folder of the configuration: inside the package when installed, else in the checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def _job(cfg: DictConfig) -> float:
    """Run one job; imports the framework only now.

    A job of a sweep raises, so that launchers know. A single one leaves its error to :func:`main`: Hydra would print
    a line of its own before it.
    """
    try:
        if "strategy" not in cfg:
            raise RunError(f"choose a strategy:\n{messages.strategies(conf_folder())}")
        from ensemble_transfer.cli.job import run_job

        return run_job(cfg, HydraConfig.get())
    except (SettingError, RunError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _failure.append(error)
        return math.inf
