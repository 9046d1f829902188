"""Which settings of a configuration decide the result of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

_INCIDENTAL = ("store", "logger", "sweep", "verbose")
"""What says where fits are kept, runs are logged, how a sweep goes on, and what is printed."""

_DECISIVE_OF_TRAINER = ("precision", "channels_last", "callbacks", "tf32")
"""The trainer's settings that decide a result.

All others say where and how it is computed. Threads and device are in a record's environment: they round differently
too, but seeds that several machines have computed belong together.
"""

_PLACES_OF_IMAGES = ("memory", "cache")
"""Options of our tasks that say where images are kept while they are used."""


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the result of a run, seed included, as nested plain data.

    Two runs are equal where these are.
    """
    kept = {name: _comparable(value) for name, value in config.items() if name not in _INCIDENTAL}
    if isinstance(trainer := config.get("trainer"), Mapping):
        kept["trainer"] = {name: trainer[name] for name in _DECISIVE_OF_TRAINER if name in trainer}
    return kept


def _comparable(node: Any) -> Any:  # noqa: ANN401
    """Return a configuration, or a part of it, without where our tasks keep images, and whole numbers as such."""
    if isinstance(node, Mapping):
        ours = str(node.get("_target_")).startswith("ensemble_transfer.tasks.")
        return {n: _comparable(v) for n, v in node.items() if not (ours and n in _PLACES_OF_IMAGES)}
    if isinstance(node, float) and node.is_integer():  # a budget of 2.0 is one of 2
        return int(node)
    return [_comparable(inner) for inner in node] if isinstance(node, list) else node


def flat(node: Any, path: str = "") -> Iterable[tuple[str, str]]:  # noqa: ANN401
    """Return the leaves of nested settings as text, by their dotted path."""
    if not isinstance(node, Mapping):
        yield path, str(node)
        return
    for key, value in node.items():
        yield from flat(value, f"{path}.{key}" if path else str(key))
