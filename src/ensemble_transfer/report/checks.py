"""Check data of a record's file against the type that a program gives it: what every reader may rely on."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

DEEPEST = 50
"""Levels of a record's nested data at most; functions that walk it go as deep."""

LARGEST = 1e300
"""Numbers are smaller than this."""

_RANGES = {
    **dict.fromkeys(("nll", "temperature", "weight_distance"), (0, math.inf)),
    **dict.fromkeys((f"accuracy{end}" for end in ("", "_min", "_max", "_low", "_high")), (0, 1)),
    **dict.fromkeys(("disagreement", "double_fault"), (0, 1)),
    **dict.fromkeys(("ece", "mce", "ece_adaptive", "ece_classwise", "auroc", "aupr", "fpr95"), (0, 1)),
    **dict.fromkeys(("aurc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage"), (0, 1)),
    "brier": (0, 2),
}
"""Least and largest possible value of metrics, by the last part of their keys."""

_ROUNDING = 1e-6

_WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", Mapping: "an object"}


@dataclass(frozen=True)
class Rule:
    """What a value must be besides its type: it stands in an ``Annotated`` type."""

    words: str
    fits: Callable[[Any], bool]


def check(value: Any, kind: Any, path: str = "") -> None:  # noqa: ANN401  # whatever a file holds, and any type
    """Raise a ValueError that names the first part of plain data that is not of its type.

    Types are texts, numbers, literals, lists, mappings from text, typed dicts, of which only the keys that are there
    are checked, any of these or null, and ``Annotated`` by a :class:`Rule`.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or (origin in (UnionType, Union) and value is None and NoneType in parts):
        return
    if origin in (UnionType, Union):
        check(value, parts[0], path)
    elif origin is Annotated:
        check(value, parts[0], path)
        _require(parts[1].fits(value), path, parts[1].words)
    elif origin is Literal:
        _require(isinstance(value, str) and value in parts, path, f"{', '.join(parts[:-1])} or {parts[-1]}")
    else:
        plain = Mapping if is_typeddict(kind) else origin or kind
        _require(_is_a(value, plain), path, _WORDS[plain])
        for name, inner, part in _parts(value, kind, parts):
            check(inner, part, f"{path}.{name}" if path else name)


def _is_a(value: object, plain: type) -> bool:
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, plain) and not isinstance(value, bool)


def _parts(value: Any, kind: Any, parts: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401  # likewise
    """Yield the parts of a list or an object that have a type: names, values and types."""
    if is_typeddict(kind):
        yield from ((name, value[name], part) for name, part in hints(kind).items() if name in value)
    elif isinstance(value, Mapping):
        yield from ((name, inner, parts[1]) for name, inner in value.items())
    elif isinstance(value, list):
        yield from ((str(place), inner, parts[0]) for place, inner in enumerate(value))


@cache
def hints(kind: type) -> dict[str, Any]:
    """Return the types of a class's fields, with their rules."""
    return get_type_hints(kind, include_extras=True)


def check_ranges(metrics: Mapping[str, float | None]) -> None:
    """Raise a ValueError that names the first metric that is impossible."""
    for key, value in metrics.items():
        low, high = _RANGES.get(key.rpartition("/")[2], (-math.inf, math.inf))
        fits = value is None or low - _ROUNDING <= value <= high + _ROUNDING
        _require(fits, f"metrics.{key}", f"{low} or more" if high == math.inf else f"{low} to {high}")


def check_depth(data: Mapping[str, Any]) -> None:
    """Raise a ValueError if data is nested too deep."""
    level: list[Any] = [data]
    for _ in range(DEEPEST):
        nested = [node.values() if isinstance(node, Mapping) else node for node in level]
        level = [inner for node in nested for inner in node if isinstance(inner, Mapping | list)]
    if level:
        raise ValueError(f"the record must not be nested more than {DEEPEST} deep")


def _require(condition: bool, path: str, words: str) -> None:
    if not condition:
        raise ValueError(f"{path} must be {words}")
