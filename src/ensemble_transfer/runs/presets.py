"""Presets of the configuration by name, as plain data, for Python: no Hydra is needed to read them."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ensemble_transfer.errors import SettingError


def conf_folder() -> Path:
    """Return the folder of the configuration: inside the package when installed, else in the checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def preset_names(group: str) -> list[str]:
    """Return the names of a group's presets, sorted."""
    return sorted(path.stem for path in (conf_folder() / group).glob("[!_]*.yaml"))


def preset(group: str, name: str) -> dict[str, Any]:
    """Return what a preset, and the one that it builds on, set; all else are defaults of the class.

    Raises:
        SettingError: If the group has no such preset.
    """
    known = preset_names(group)
    if name not in known:
        raise SettingError(group, name, f"must be one of {', '.join(known)}")
    return _settings(group, name)


def _settings(group: str, name: str) -> dict[str, Any]:
    own = read_yaml(conf_folder() / group / f"{name}.yaml")
    bases = [base for base in own.pop("defaults", []) if base != "_self_"]
    return {key: value for base in bases for key, value in _settings(group, base).items()} | own


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a file of the configuration says; the jobs of a sweep read each once."""
    return deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return parsed
