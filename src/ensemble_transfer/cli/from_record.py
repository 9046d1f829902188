"""The configuration of a finished run, changed by a command line: what ``extend`` and ``rivals`` start from.

A run may come from elsewhere: what its record names is neither imported nor resolved, and what it says of tracking is
left out.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.report.escape import PrintableFormatter
from ensemble_transfer.report.record import Record

_NEEDED = ("dataset", "backbone", "ensemble", "strategy", "recipe", "trainer", "store", "logger", "evaluation")
_OWN_CLASS = re.compile(r"ensemble_transfer\.(tasks|transfer\.strategies)\.\w+\.\w+")
_TARGET = "._target_"
_OF_A_LIST = re.compile(r"\.\d+\.(.*\.)?_target_$")
"""A class that an item of a list names: an override of it repeats what the record says, and changes nothing."""


@contextmanager
def live_progress() -> Iterator[None]:
    """Print what the package logs, as Hydra does for a run, and take everything back afterwards."""
    logger, handler = logging.getLogger("ensemble_transfer"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def changes_of(overrides: Sequence[str], groups: Sequence[str], names: Sequence[str], what: str) -> DictConfig:
    """Return the changes that overrides make to the configuration of a record.

    Args:
        overrides: As on the command line.
        groups: Groups that may change.
        names: Further settings that may be given.
        what: What they are given for, such as ``an extension``.

    Raises:
        SettingError: For a setting that may not change, or a value that cannot be read.
    """
    parsed = []
    for override in overrides:
        name, given, value = override.partition("=")
        example = f"{(*names, f'{groups[0]}.threads')[0]}=3"
        require(given != "", "OVERRIDE", override, f"must be name=value, such as {example}")
        known = name in names or name.split(".")[0] in groups
        rule = f"cannot change for {what}; allowed: {', '.join([*names, *groups])}"
        require(known or name.endswith(_TARGET), name, value, rule)
        require(name not in groups, name, value, f"is a group of settings; change one of them: {name}.NAME=VALUE")
        if not known or _OF_A_LIST.search(name):
            continue
        try:
            parsed.append(OmegaConf.from_dotlist([override]))
        except Exception as error:  # YAML's parser and OmegaConf's raise what they like
            raise SettingError(name, value, "cannot be read; does it need quotes?") from error
    return OmegaConf.unsafe_merge(OmegaConf.create(), *parsed)  # type: ignore[return-value]  # of groups


def merge_changes(cfg: DictConfig, changes: DictConfig, groups: Sequence[str]) -> None:
    """Change groups of a configuration.

    Raises:
        SettingError: If a change does not fit its group.
    """
    for group in groups:
        try:
            cfg[group] = OmegaConf.merge(cfg[group], changes.get(group, {}))
        except OmegaConfBaseException as error:
            raise SettingError(group, str(changes[group]), str(error).splitlines()[0]) from error


def as_data(folder: Path, record: Record, overrides: Sequence[str], changes: DictConfig) -> dict[str, Any]:
    """Return the configuration of a record, once it is known to be data alone.

    Callbacks of the record give way to those of the command line.

    Raises:
        SettingError: For a configuration that is not whole, names a foreign class, or refers to something.
    """
    config: dict[str, Any] = deepcopy(dict(record.config))
    config["logger"] = {"kind": "none"}  # a record talks to nobody: tracking is what the command line says
    if OmegaConf.select(changes, "trainer.callbacks") is not None and isinstance(config.get("trainer"), dict):
        config["trainer"]["callbacks"] = []
    for group in _NEEDED:
        require(isinstance(config.get(group), Mapping), "RUN", str(folder), f"its record has no configuration {group}")
    for name, value in _texts(config, ""):
        require("${" not in value, name, value, "refers to something; a record is data, and nothing is resolved")
        own = not name.endswith(_TARGET) or _OWN_CLASS.fullmatch(value)
        rule = "is no class of ensemble_transfer; a record is data, and nothing that it names is imported. "
        rule += f"If you trust it, add {name}={value} to the command"
        require(bool(own) or f"{name}={value}" in overrides, name, value, rule)
    return config


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield the texts of nested data with their dotted paths."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}:", str(key)
            yield from _texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}.{index}")
