"""From plain settings to the dataclasses that declare them: annotations give types, ``__post_init__`` the rules."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from importlib import import_module
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ensemble_transfer.errors import SettingError, require, settings_under
from ensemble_transfer.runs.presets import preset

T = TypeVar("T")

UNSET = "???"
"""What stands in a configuration for a value that the user must give."""

_CLASSES = {
    "backbone": "ensemble_transfer.models.backbone.Backbone",
    "recipe": "ensemble_transfer.training.recipe.Recipes",
    "trainer": "ensemble_transfer.training.settings.TrainerSettings",
}
"""Groups whose presets name no class: all are of one."""

_RULES: Mapping[object, str] = {
    bool: "must be true or false",
    int: "must be a whole number",
    float: "must be a number",
    str: "must be a text",
    list: "must be a list, such as [a,b]",
    dict: "must be a group of settings, not a single value",
}


def build(cls: type[T], settings: object, path: str, default: T | None = None) -> T:
    """Return a dataclass of settings, by the names of its fields.

    Args:
        cls: The dataclass.
        settings: Plain data: a mapping. A field that is a dataclass too may name some settings alone.
        path: Dotted path of the settings, for errors.
        default: What settings are that are not given; None for the defaults of the fields.

    Raises:
        SettingError: If a key is unknown or missing, or a value has a wrong type or is refused by the dataclass.
    """
    given, hints = group(settings, path), get_type_hints(cls)
    declared = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]  # T is a dataclass
    for name, value in given.items():
        known = f"is not a setting; {path or 'the configuration'} has {', '.join(declared)}"
        require(name in declared, below(path, name), value, known)
    for name, f in declared.items():
        lacks = name not in given and default is None and f.default is MISSING and f.default_factory is MISSING
        full = below(path, name)
        require(not lacks and given.get(name) != UNSET, full, None, f"is required: {full}=...")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if is_dataclass(hints[name]):
            values[name] = build(hints[name], value, below(path, name), _default(declared[name]))
        else:
            values[name] = _typed(value, hints[name], below(path, name))
    try:
        with settings_under(path):
            return cls(**values) if default is None else replace(default, **values)  # type: ignore[type-var]
    except OSError as error:  # a path that no file system has
        raise SettingError(path, error.filename, f"cannot be looked for: {error.strerror}") from error


def named(settings: object, path: str) -> Any:  # noqa: ANN401  # whatever class they name
    """Return an object of the dataclass that settings name as ``_target_``; the others are its fields.

    Raises:
        SettingError: As :func:`build`, or if there is no such class.
    """
    given = group(settings, path)
    cls = class_of(given, path)
    require(is_dataclass(cls), f"{path}._target_", given["_target_"], "must be a dataclass: its fields are the options")
    return build(cls, {name: value for name, value in given.items() if name != "_target_"}, path)


def preset_object(name_of_group: str, name: str) -> Any:  # noqa: ANN401  # whatever class the preset names
    """Return the object of a preset, such as a strategy, a backbone or recipes."""
    own = {"_target_": _CLASSES[name_of_group]} if name_of_group in _CLASSES else {}
    return named(own | preset(name_of_group, name), name_of_group)


def class_of(settings: Mapping[str, Any], path: str) -> type:
    """Return the class that settings name as ``_target_``; it is imported, not called."""
    setting, target = f"{path}._target_", settings.get("_target_")
    require(isinstance(target, str), setting, target, "must name a class, such as package.module.Class")
    module, _, name = str(target).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything when it is imported
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SettingError(setting, target, f"is not a class that can be imported: {line}") from error
    require(isinstance(found, type), setting, target, "is not a class")
    cls: type = found
    return cls


def group(settings: object, path: str) -> Mapping[str, Any]:
    """Return settings that must be a group, by name."""
    require(isinstance(settings, Mapping), path, settings, _RULES[dict])
    assert isinstance(settings, Mapping)
    return {str(name): value for name, value in settings.items()}


def below(path: str, name: str) -> str:
    """Return the dotted path of a setting of a group."""
    return f"{path}.{name}" if path else name


def _default(f: Field[Any]) -> Any:  # noqa: ANN401
    if f.default_factory is not MISSING:
        return f.default_factory()
    return None if f.default is MISSING else f.default


def _typed(value: Any, hint: Any, setting: str) -> Any:  # noqa: ANN401
    """Return a value as a type has it; numbers in a text, as environment variables have them, are numbers."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    kinds = [*get_args(kinds[0])] if len(kinds) == 1 and get_origin(kinds[0]) not in (None, list, dict) else kinds
    if Any in kinds or (value is None and NoneType in get_args(hint)):
        return value
    if len(kinds) > 1:  # each value is of one of them already
        fits = any(type(value) is kind for kind in kinds)
    else:
        value, fits = _converted(value, kinds[0])
    rule = " or ".join(_RULES[get_origin(kind) or kind].removeprefix("must be ") for kind in kinds)
    if list[float] in kinds:
        rule = "a list of numbers, such as [0.5,0.5,0.5]"
    require(fits, setting, value, f"must be {rule}{' or null' * (NoneType in get_args(hint))}")
    return value


def _converted(value: Any, kind: Any) -> tuple[Any, bool]:  # noqa: ANN401
    """Return a value as a type has it, and whether it can be."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is dict:
        return value, isinstance(value, Mapping)
    if origin is list:
        items = [_converted(item, inner[0]) for item in value] if isinstance(value, list | tuple) else [(None, False)]
        fits = all(ok for _, ok in items)
        return ([item for item, _ in items] if fits else value), fits
    scalar = isinstance(value, int | float | str)
    if kind in (int, float) and scalar and not isinstance(value, bool):
        try:
            return kind(value), kind is float or not isinstance(value, float)
        except (ValueError, OverflowError):  # infinity is no whole number
            return value, False
    if kind is str and scalar:
        return str(value), True
    return value, kind is Any or (kind is bool and isinstance(value, bool))
