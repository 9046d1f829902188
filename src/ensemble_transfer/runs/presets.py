"""Presets of the configuration by name, as plain data, for Python: no Hydra is needed to read them."""

from collections.abc import Mapping
from importlib import import_module
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
    """Return the settings of a preset, with those of the presets that it builds on.

    Raises:
        SettingError: If the group has no such preset.
    """
    known = preset_names(group)
    if name not in known:
        raise SettingError(group, name, f"must be one of {', '.join(known)}")
    return _settings(group, name)


def preset_object(group: str, name: str) -> Any:  # noqa: ANN401  # whatever class the preset names
    """Return the object of a preset that names its class, such as a strategy."""
    settings = preset(group, name)
    module, _, cls = str(settings.pop("_target_")).rpartition(".")
    return getattr(import_module(module), cls)(**settings)


def _settings(group: str, name: str) -> dict[str, Any]:
    own = yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", ["_self_"]):
        merged = _merged(merged, own if base == "_self_" else _settings(group, base))
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inside = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if inside else value
    return merged
