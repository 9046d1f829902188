"""The arguments of the main command: what is rewritten before Hydra reads them, and what is read from them."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ensemble_transfer.errors import SettingError

VERSION = "--version"

CONFIG_DIR = ("--config-dir", "-cd")
"""The option that names a folder with a user's own groups and experiments."""

_WITH_VALUE = frozenset(("--config-path", "-cp", "--config-name", "-cn", *CONFIG_DIR, "--package", "-p", "--cfg", "-c"))
_WITH_CHOICE = ("--info", "-i")
"""Options of Hydra that take a value, and the one that may take one."""

_PLACES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")

_TELLING = frozenset(("--help", "-h", "--cfg", "-c", *_WITH_CHOICE))
"""Options that tell of the configuration, and run nothing."""


def normalised(arguments: Sequence[str]) -> list[str]:
    """Return arguments as Hydra takes them.

    ``+strategy=`` and ``++strategy=`` become ``strategy=``, ``None`` becomes ``null``. Options such as ``-m`` move to
    the front, since Hydra does not take them between overrides.

    Raises:
        SettingError: If a setting is written as an option, ``--seed=1``; if an option at the end lacks its value, for
            which Hydra would take the first override; if there are two strategies, of which Hydra would take the last;
            or if runs are to be written nowhere.
    """
    if arguments and arguments[-1] in _WITH_VALUE:
        raise SettingError(arguments[-1], None, "needs a value")
    options, overrides = split(arguments)
    for option in options:
        name, _, value = option.partition("=")
        if value and name.startswith("--") and name not in {*_WITH_VALUE, *_WITH_CHOICE, "--experimental-rerun"}:
            rule = f"is not an option; a setting is {name[2:]}={value}. In the command of a W&B sweep write "
            raise SettingError(name, value, rule + "${args_no_hyphens}")
    chosen = [word.partition("=")[2] for word in map(renewed, overrides) if word.startswith("strategy=")]
    if len(chosen) > 1:
        raise SettingError("strategy", ", ".join(chosen), f"must be one; a sweep is -m strategy={','.join(chosen)}")
    for name, _, value in (word.lstrip("+").partition("=") for word in overrides):
        if name in _PLACES and not value.strip(" '\""):
            raise SettingError(name, value, "must be a folder; an empty one would be the current folder")
    # agents of W&B write Python's None
    return [*options, *(re.sub(r"=None$", "=null", renewed(override)) for override in overrides)]


def renewed(override: str) -> str:
    """Return an override of the strategy as Hydra takes it, and any other as it is."""
    return re.sub(r"^\+{1,2}strategy=", "strategy=", override)


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


def tells(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks what the configuration is, and runs nothing."""
    return any(option.partition("=")[0] in _TELLING for option in split(arguments)[0])


def folders(conf: Path, arguments: Sequence[str]) -> list[Path]:
    """Return where configurations are looked for: a folder that the user named, then the package's own."""
    options, found = split(arguments)[0], [conf]
    for option, value in pairwise([*options, ""]):
        name, given, attached = option.partition("=")
        if name in CONFIG_DIR:
            found.insert(0, Path(attached if given else value))
    return found


def groups(conf: Sequence[Path]) -> set[str]:
    """Return the names of the groups in folders of configurations."""
    return {path.name for folder in conf if folder.is_dir() for path in folder.iterdir() if path.is_dir()}


def require_text(*texts: str) -> None:
    """Raise a SettingError for a text of the command line that has no Unicode in this locale."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise SettingError("argument", os.fsencode(text), "is not text in this locale; set PYTHONUTF8=1") from None
