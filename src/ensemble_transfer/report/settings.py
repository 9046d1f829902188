"""Which settings of a configuration decide the result of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

_INCIDENTAL = ("store", "logger")
"""Groups that say where fits are kept and runs are logged."""

_DECISIVE_OF_TRAINER = ("precision",)
"""The trainer's settings that change results. All others change where and how fast a fit is computed."""

_MOVED = {
    "ensemble_transfer.strategies.": "ensemble_transfer.transfer.strategies.",
    "ensemble_transfer.backbone.": "ensemble_transfer.models.backbone.",
}
"""Modules that moved, by the names that older records use."""


def current_name(name: str) -> str:
    """Return today's path of a class that a record of an older version may name."""
    for before, now in _MOVED.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the result of a run, seed included, as nested plain data.

    Two runs are equal where these are. Older paths of classes are replaced by today's.

    Args:
        config: A resolved configuration, as records keep it.
    """
    kept = {str(name): _current(value) for name, value in config.items() if name not in _INCIDENTAL}
    trainer = kept.pop("trainer", None)
    if isinstance(trainer, Mapping):
        kept["trainer"] = {name: trainer[name] for name in _DECISIVE_OF_TRAINER if name in trainer}
    return kept


def _current(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        named = {str(key): _current(inner) for key, inner in value.items()}
        if isinstance(named.get("_target_"), str):
            named["_target_"] = current_name(named["_target_"])
        return named
    return [_current(inner) for inner in value] if isinstance(value, list | tuple) else value


def flat(node: Any, path: str = "") -> Iterable[tuple[str, str]]:  # noqa: ANN401
    """Return the leaves of nested settings as text, by their dotted path."""
    if not isinstance(node, Mapping):
        yield path, str(node)
        return
    for key, value in node.items():
        yield from flat(value, f"{path}.{key}" if path else str(key))
