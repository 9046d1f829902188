"""Which settings of a configuration decide the result of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

_INCIDENTAL = ("store", "logger", "sweep")
"""Groups that say where fits are kept, runs are logged, and how a sweep goes on."""

_DECISIVE_OF_TRAINER = ("precision", "channels_last")
"""The trainer's settings that decide a result, besides callbacks and TF32: those in the key of a fit.

All others say where and how it is computed. Threads and device are in a record's environment: they round differently
too, but seeds that several machines have computed belong together.
"""

_PLACES_OF_IMAGES = ("memory", "cache")
"""Options of our tasks that say where images are kept while they are used."""

_MOVED = {
    "ensemble_transfer.strategies.": "ensemble_transfer.transfer.strategies.",
    "ensemble_transfer.backbone.": "ensemble_transfer.models.backbone.",
}
"""Modules that moved, by the names that older records use."""


_SHIFT = "ensemble_transfer.transfer.strategies.shift.Shift"
_ADDED: Mapping[str, Mapping[str, Any]] = {
    _SHIFT: {"members": None, "if_better": False},
    "ensemble_transfer.transfer.strategies.few.Few": {"cycles": []},
    "ensemble_transfer.transfer.strategies.star.Star": {"cycle": None, "first": 0.4, "members": 8},
}
"""Options that classes got after version 0.1, by class, with the values by which older runs were computed."""

_ADDED_RECIPES: Mapping[str, Any] = {"statistics": None}
"""What recipes got after version 0.1, with the values by which older runs were computed."""

_REMOVED: Mapping[str, tuple[str, ...]] = {
    _SHIFT: ("scales", "search_budget"),
    "ensemble_transfer.transfer.strategies.matched.Matched": ("equal",),
}
"""Options of version 0.1 that are gone, by class. Where they were used, today's version has no such run."""

_SEARCHES = {"none": False, "probe": True}
"""The values of the shift's option ``search`` in version 0.1 that ``if_better`` has replaced."""


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
    kept = {"budget": None} | {n: _placeless(v) for n, v in current(config).items() if n not in _INCIDENTAL}
    trainer, evaluation, ensemble = kept.pop("trainer", None), kept.get("evaluation"), kept.get("ensemble")
    if isinstance(ensemble, Mapping) and not ensemble.get("added"):  # as in every run before there were any
        kept["ensemble"] = {name: value for name, value in ensemble.items() if name != "added"}
    if isinstance(evaluation, Mapping) and evaluation.get("test") is True:  # as in every run of version 0.1
        kept["evaluation"] = {name: value for name, value in evaluation.items() if name != "test"}
    if isinstance(trainer, Mapping):
        kept["trainer"] = {name: trainer[name] for name in _DECISIVE_OF_TRAINER if name in trainer}
        for name in ("callbacks", "tf32"):  # older records have none
            if trainer.get(name):
                kept["trainer"][name] = trainer[name]
    return kept


def _placeless(node: Any) -> Any:  # noqa: ANN401
    """Return a configuration, or a part of it, without where our tasks keep their images."""
    if isinstance(node, Mapping):
        ours = str(node.get("_target_")).startswith("ensemble_transfer.tasks.")
        return {n: _placeless(v) for n, v in node.items() if not (ours and n in _PLACES_OF_IMAGES)}
    return [_placeless(inner) for inner in node] if isinstance(node, list) else node


def current(node: Any) -> Any:  # noqa: ANN401
    """Return a configuration, or a part of it, as today's version writes it: class paths and options are renewed."""
    if isinstance(node, Mapping):
        named = {str(key): current(inner) for key, inner in node.items()}
        if isinstance(named.get("recipe"), dict):
            named["recipe"] = dict(_ADDED_RECIPES) | named["recipe"]
        return _renewed(named) if isinstance(named.get("_target_"), str) else named
    return [current(inner) for inner in node] if isinstance(node, list | tuple) else node


def _renewed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a class as today's class takes them."""
    target = options["_target_"] = current_name(options["_target_"])
    search = options.get("search")
    if target == _SHIFT and isinstance(search, str) and search in _SEARCHES:
        options["if_better"] = _SEARCHES[options.pop("search")]
        options = {name: value for name, value in options.items() if name not in _REMOVED[target]}
    elif options.get("equal") == "flops":
        options = {name: value for name, value in options.items() if name not in _REMOVED.get(target, ())}
    if "folds" in options and options["folds"] is None:  # no cross-validation, as in every run of version 0.1
        options = {name: value for name, value in options.items() if name not in ("folds", "fold")}
    return dict(_ADDED.get(target, {})) | options


def flat(node: Any, path: str = "") -> Iterable[tuple[str, str]]:  # noqa: ANN401
    """Return the leaves of nested settings as text, by their dotted path."""
    if not isinstance(node, Mapping):
        yield path, str(node)
        return
    for key, value in node.items():
        yield from flat(value, f"{path}.{key}" if path else str(key))
