"""Check the fields of a record's file: types and shapes that every reader may rely on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

DEEPEST = 50
"""Levels of a record's nested data at most; functions that walk it go as deep."""

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

Fits = Callable[[Any], bool]
Rule = tuple[Fits, str] | Mapping[str, "Rule"]
"""Whether a value is what it must be, and what that is; or the rules of an object's fields, ``*`` for all others."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object, least: float = -1e300) -> bool:
    """Say whether a value is a number; null stands where JSON has none."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value < 1e300
    return value is None or number


def _is_amount(value: object) -> bool:
    return _is_number(value, 0)


def _list_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _amounts(part: object) -> bool:
    return part is None or (isinstance(part, Mapping) and all(map(_is_amount, part.values())))


def _square_of(fits: Fits) -> Fits:
    return lambda value: (
        not value or (_list_of(_list_of(fits))(value) and all(len(line) == len(value) for line in value))
    )


def _columns(*names: str) -> Rule:
    def fits(curve: object) -> bool:
        columns = [curve.get(name) for name in names] if isinstance(curve, Mapping) else [None]
        return all(map(_list_of(_is_number), columns)) and len(set(map(len, columns))) == 1  # type: ignore[arg-type]

    return lambda curve: not curve or fits(curve), f"{', '.join(names)}: lists of numbers of one length"


def _texts_by_name(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


_OBJECT: Rule = {}
_TEXT: Rule = _is_text, "a text"
_TEXTS: Rule = _list_of(_is_text), "a list of texts"
_AMOUNTS: Rule = _amounts, "numbers, 0 or more"

_EVERY: Mapping[str, Rule] = {
    "status": (lambda value: value in ("finished", "failed", "interrupted"), "finished, failed or interrupted"),
    **dict.fromkeys(("strategy", "role", "about", "dataset", "backbone", "command"), _TEXT),
    **dict.fromkeys(("ensemble", "metrics", "cost", "curves", "config", "environment"), _OBJECT),
    "error": (lambda value: value is None or _is_text(value), "a text"),
    "reused_fits": (_list_of(lambda fit: isinstance(fit, Mapping)), "a list of objects"),
    "data": {"*": _TEXT},
    "files": {"*": _TEXT},
    "images": {"*": _TEXT},
    "inputs": (lambda value: value is None or _texts_by_name(value), "texts by name"),
    "notes": _TEXTS,
}
"""Rules for all records."""

_FINISHED: Mapping[str, Rule] = {
    "seed": (lambda value: _is_whole(value) and value >= 0, "a whole number, 0 or more"),
    "ensemble": {
        "size": (lambda value: _is_whole(value) and value > 0, "a whole number above 0"),
        "lineage": _TEXT,
        "classes": _TEXTS,
    },
    "metrics": {"*": (_is_number, "a number or null")},
    "cost": {"phases": {"*": _AMOUNTS}}
    | dict.fromkeys(("total", "per_member", "marginal", "source", "prediction"), _AMOUNTS),
    "curves": {
        **dict.fromkeys(("reliability", "reliability_calibrated"), _columns("count", "confidence", "accuracy")),
        "accuracy_rejection": _columns("rejection", "accuracy"),
        "ensemble_size": _columns("size", "accuracy", "calibrated_nll"),
        "shift_line": _columns("scale", "loss", "accuracy"),
        "disagreement": (_square_of(_is_number), "a square of numbers"),
        "confusion": (_square_of(lambda value: _is_whole(value) and value >= 0), "a square of counts"),
        "member_accuracy": (_list_of(_is_number), "a list of numbers"),
    },
    "config": {
        **dict.fromkeys(
            ("dataset", "backbone", "strategy", "recipe", "trainer", "logger", "store", "evaluation"), _OBJECT
        ),
        "ensemble": {"fork": (_is_amount, "a number or null")},
        "budget": (_is_amount, "a number or null"),
    },
    "environment": {"versions": _OBJECT},
}
"""Further rules for records of finished runs."""


def check(data: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first field of a record that is not what it must be."""
    _follow(data, _EVERY)
    if data["status"] == "finished":
        _follow(data, _FINISHED)
        for key, value in data.get("metrics", {}).items():
            low, high = _RANGES.get(key.rpartition("/")[2], (-math.inf, math.inf))
            rule = f"{low} or more" if high == math.inf else f"{low} to {high}"
            fits = value is None or low - _ROUNDING <= value <= high + _ROUNDING
            _require(fits, f"metrics.{key}", f"is {value}, which is impossible; must be {rule}")


def _follow(node: Mapping[str, Any], rules: Mapping[str, Rule], path: str = "") -> None:
    for name, value in node.items():
        rule = rules.get(name, rules.get("*"))
        if isinstance(rule, Mapping):
            _require(isinstance(value, Mapping), f"{path}{name}", "must be an object")
            _follow(value, rule, f"{path}{name}.")
        elif rule is not None:
            _require(rule[0](value), f"{path}{name}", f"must be {rule[1]}")


def check_depth(data: Mapping[str, Any]) -> None:
    """Raise a ValueError if data is nested too deep."""
    level: list[Any] = [data]
    for _ in range(DEEPEST):
        nested = [node.values() if isinstance(node, Mapping) else node for node in level]
        level = [inner for node in nested for inner in node if isinstance(inner, Mapping | list)]
    _require(not level, "the record", f"must not be nested more than {DEEPEST} deep")


def _require(condition: bool, name: str, rule: str) -> None:
    if not condition:
        raise ValueError(f"{name} {rule}")
