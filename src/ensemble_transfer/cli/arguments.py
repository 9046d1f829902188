"""The arguments of the main command: what is rewritten before Hydra reads them, and what is read from them."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ensemble_transfer.errors import SettingError, require

VERSION = "--version"

CONFIG_DIR = ("--config-dir", "-cd")
"""The option that names a folder with a user's own groups and experiments."""

_WITH_VALUE = frozenset(("--config-path", "-cp", "--config-name", "-cn", *CONFIG_DIR, "--package", "-p", "--cfg", "-c"))
_WITH_CHOICE = ("--info", "-i")
"""Options of Hydra that take a value, and the one that may take one."""

_PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")

_RUNNING = frozenset(("-m", "--multirun", "-r", "--run", *CONFIG_DIR))
"""Options with which Hydra runs jobs; with all others it tells of the configuration."""

_REMOVABLE = ("backbone.options", "evaluation.ood.", "hydra", "task@")
"""What an override may remove: of all else the run would use a default that its record lacks."""


def normalised(arguments: Sequence[str]) -> list[str]:
    """Return arguments as Hydra takes them.

    ``+strategy=`` and ``++strategy=`` become ``strategy=``, ``None`` becomes ``null``. Options such as ``-m`` move to
    the front, since Hydra does not take them between overrides.

    Raises:
        SettingError: If a setting is written as an option, ``--seed=1``; if an option at the end lacks its value, for
            which Hydra would take the first override; or for an override of :func:`_require_usable`.
    """
    if arguments and arguments[-1] in _WITH_VALUE:
        raise SettingError(arguments[-1], None, "needs a value")
    options, overrides = split(arguments)
    for option in options:
        name, _, value = option.partition("=")
        if value and name.startswith("--") and name not in {*_WITH_VALUE, *_WITH_CHOICE, "--experimental-rerun"}:
            rule = f"is not an option; a setting is {name[2:]}={value}. In the command of a W&B sweep write "
            raise SettingError(name, value, rule + "${args_no_hyphens}")
    overrides = [re.sub(r"^\+{1,2}strategy=", "strategy=", override.strip()) for override in overrides]
    _require_usable(overrides)
    # agents of W&B write Python's None
    return [*options, *(re.sub(r"=None$", "=null", override) for override in overrides)]


def _require_usable(overrides: Sequence[str]) -> None:
    """Refuse what Hydra takes and should not.

    Raises:
        SettingError: If a setting is removed; if there are two strategies, of which Hydra would take the last; if runs
            are to be written nowhere; or for parameters of a sweeper that has none.
    """
    named = [word.lstrip("+").partition("=")[::2] for word in overrides]
    chosen = [value for name, value in named if name == "strategy"]
    require(len(chosen) < 2, "strategy", ", ".join(chosen), f"must be one; a sweep is -m strategy={','.join(chosen)}")
    swept = any(name in ("hydra/sweeper", "experiment") for name, _ in named)
    for name, value in named:
        removed = name.startswith("~") and not name[1:].startswith(_REMOVABLE)
        rule = "cannot be left out: the run would use a default that its record lacks; set it instead"
        require(not removed, name, value or None, rule)
        placed = name not in _PLACES or bool(value.strip(" '\""))
        require(placed, name, value, "must be a folder; an empty one would be the current folder")
        rule = "is for an experiment or hydra/sweeper=tune; here a sweep is -m NAME=VALUE,VALUE"
        require(swept or not name.startswith("hydra.sweeper.params"), name, value, rule)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options, with their values, and the overrides of a command line."""
    options: list[str] = []
    overrides: list[str] = []
    before = ""
    for argument in arguments:
        chosen = before in _WITH_CHOICE and "=" not in argument
        is_option = argument.startswith("-") or before in _WITH_VALUE or chosen
        (options if is_option else overrides).append(argument)
        before = argument if is_option and before not in _WITH_VALUE else ""
    return options, overrides


def runs(arguments: Sequence[str]) -> bool:
    """Return whether a command line runs jobs, and does not only ask what the configuration is."""
    options = [option for option in split(arguments)[0] if option.startswith("-")]
    return all(option.partition("=")[0] in _RUNNING for option in options)


def names_strategy(arguments: Sequence[str]) -> bool:
    """Return whether a command line may choose a strategy: an experiment, too, may name one."""
    return any("strategy" in word or "experiment" in word for word in split(arguments)[1])


def folders(conf: Path, arguments: Sequence[str]) -> list[Path]:
    """Return where configurations are looked for: a folder that the user named, then the package's own."""
    options, found = split(arguments)[0], [conf]
    for option, value in pairwise([*options, ""]):
        name, given, attached = option.partition("=")
        if name in CONFIG_DIR:
            found.insert(0, Path(attached if given else value))
    return found


def require_text(*texts: str) -> None:
    """Raise a SettingError for a text of the command line that has no Unicode in this locale."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise SettingError("argument", os.fsencode(text), "is not text in this locale; set PYTHONUTF8=1") from None
