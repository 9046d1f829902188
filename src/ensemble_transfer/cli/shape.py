"""What can be said of settings before anything heavy is imported: a group is a group, a number a number."""

from collections.abc import Mapping
from typing import Any

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.runs.presets import conf_folder, preset, preset_names, read_yaml
from ensemble_transfer.transfer.budget import read_budget

_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((Mapping,), "must be a group of settings, not a single value"),
    ((list,), "must be a list, such as [a,b]"),
    ((bool,), "must be true or false"),
    ((int, float), "must be a number"),
)
"""Kinds of the values in conf/, and what is said of others. A text may stand for more, and null for anything."""


def check_shape(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Raise a SettingError for a value of another kind than the one that conf/ has for it, and for seed and budget.

    Args:
        settings: The configuration of a job, resolved.
        choices: The option of each group; those of a user's own folder are not looked at.
    """
    written = read_yaml(conf_folder() / "config.yaml")
    for name, value in written.items():
        if name not in ("defaults", "hydra"):
            _check(settings.get(name), value, name)
    for group in ("backbone", "ensemble", "strategy", "recipe", "trainer", "logger"):
        if choices.get(group) in preset_names(group):
            _check(settings.get(group), preset(group, str(choices[group])), group)
    seed = settings.get("seed")
    require(not isinstance(seed, int) or seed >= 0, "seed", seed, "must be 0 or more")
    read_budget(settings.get("budget"))


def _check(value: Any, written: Any, path: str) -> None:  # noqa: ANN401
    for kinds, rule in _KINDS:
        if isinstance(written, kinds) and (bool in kinds or not isinstance(written, bool)):
            fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            number = isinstance(value, str) and float in kinds and _is_number(value)
            if not fits and not number:
                raise SettingError(path, value, rule)
    if isinstance(written, Mapping):
        for name, inner in written.items():
            if name in value and value[name] is not None:
                _check(value[name], inner, f"{path}.{name}")


def _is_number(text: str) -> bool:
    try:
        return bool(text) and float(text) == float(text)
    except ValueError:
        return False
