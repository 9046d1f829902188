"""Check the fields of a record's file: types and shapes that every reader may rely on."""

from collections.abc import Mapping, Sequence
from typing import Any

STATUSES = ("finished", "failed", "interrupted")

_COLUMNS = {
    "reliability": ("count", "confidence", "accuracy"),
    "reliability_calibrated": ("count", "confidence", "accuracy"),
    "accuracy_rejection": ("rejection", "accuracy"),
    "ensemble_size": ("size", "accuracy", "calibrated_nll"),
    "shift_line": ("scale", "loss", "accuracy"),
}
"""Curves that are columns of one length, with the columns that readers use."""

_RANGES = {
    "accuracy": (0, 1),
    "accuracy_min": (0, 1),
    "accuracy_max": (0, 1),
    "nll": (0, None),
    "brier": (0, 2),
    "temperature": (0, None),
    "weight_distance": (0, None),
    **dict.fromkeys(("ece", "mce", "ece_adaptive", "ece_classwise", "auroc", "aupr", "fpr95"), (0, 1)),
    **dict.fromkeys(("aurc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage"), (0, 1)),
    **dict.fromkeys(("disagreement", "double_fault", "confidence", "rejection"), (0, 1)),
    **dict.fromkeys(("calibrated_nll", "loss", "count", "size"), (0, None)),
}
"""Least and largest possible value of metrics, by the last part of their keys, and of columns of curves."""

_ROUNDING = 1e-6

DEEPEST = 50
"""Levels of a record's nested data at most; functions that walk it go as deep."""

_COSTS = ("total", "per_member", "marginal", "source", "prediction")
_GROUPS = ("dataset", "backbone", "ensemble", "strategy", "recipe", "trainer", "logger", "store", "evaluation")


def check(data: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first field of a record that is not what it must be."""
    _require(data["status"] in STATUSES, "status", f"must be one of {', '.join(STATUSES)}")
    for name in ("strategy", "role", "about", "dataset", "backbone", "command"):
        _require(isinstance(data.get(name, ""), str), name, "must be a text")
    _require(isinstance(data.get("error"), str | None), "error", "must be a text")
    for name in ("ensemble", "metrics", "cost", "curves", "config", "environment"):
        _require(isinstance(data.get(name, {}), Mapping), name, "must be an object")
    fits = data.get("reused_fits", [])
    _require(isinstance(fits, list) and all(isinstance(f, Mapping) for f in fits), "reused_fits", "must list objects")
    notes = data.get("notes", [])
    _require(isinstance(notes, list) and all(isinstance(n, str) for n in notes), "notes", "must list texts")
    if data["status"] == "finished":
        _check_finished(data)


def _check_finished(data: Mapping[str, Any]) -> None:
    _require(_is_whole(data["seed"]) and data["seed"] >= 0, "seed", "must be a whole number, 0 or more")
    for name in ("size", "lineage"):
        if name in data["ensemble"]:
            value = data["ensemble"][name]
            fits = isinstance(value, str) if name == "lineage" else _is_whole(value) and value > 0
            _require(fits, f"ensemble.{name}", "must be a whole number above 0" if name == "size" else "must be a text")
    classes = data["ensemble"].get("classes", [])
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    _require(named, "ensemble.classes", "must be texts")
    metrics = data.get("metrics", {})
    _require(_is_numbers(metrics), "metrics", "must be numbers or null")
    for key, value in metrics.items():
        _require_possible(f"metrics.{key}", value, key.rpartition("/")[2])
    _check_cost(data.get("cost", {}))
    _check_curves(data.get("curves", {}))
    config = data.get("config", {})
    for name in _GROUPS:
        _require(isinstance(config.get(name, {}), Mapping), f"config.{name}", "must be an object")
    for name, value in (("ensemble.fork", config.get("ensemble", {}).get("fork")), ("budget", config.get("budget"))):
        _require(value is None or (_is_number(value) and value >= 0), f"config.{name}", "must be a number or null")
    versions = data.get("environment", {}).get("versions", {})
    _require(isinstance(versions, Mapping), "environment.versions", "must be an object")


def _check_cost(cost: Mapping[str, Any]) -> None:
    phases = cost.get("phases") or {}
    _require(isinstance(phases, Mapping), "cost.phases", "must be an object")
    parts = {f"phases.{name}": value for name, value in phases.items()}
    parts |= {name: cost[name] for name in _COSTS if cost.get(name) is not None}
    for name, part in parts.items():
        fits = isinstance(part, Mapping) and _is_numbers(part) and all(n is None or n >= 0 for n in part.values())
        _require(fits, f"cost.{name}", "must hold numbers, 0 or more")


def _check_curves(curves: Mapping[str, Any]) -> None:
    for name, columns in _COLUMNS.items():
        curve = curves.get(name)
        if curve:
            fits = isinstance(curve, Mapping) and all(_is_series(curve.get(column)) for column in columns)
            fits = fits and len({len(curve[column]) for column in columns}) == 1
            _require(fits, f"curves.{name}", f"must hold {', '.join(columns)}: lists of numbers of one length")
            for column in columns:
                for value in curve[column]:
                    _require_possible(f"curves.{name}.{column}", value, column)
    for name in ("disagreement", "confusion"):
        matrix = curves.get(name)
        if matrix:
            fits = isinstance(matrix, list) and all(_is_series(line) and len(line) == len(matrix) for line in matrix)
            _require(fits, f"curves.{name}", "must be a square of numbers")
    counts = curves.get("confusion") or []
    _require(all(_is_whole(n) and n >= 0 for line in counts for n in line), "curves.confusion", "must hold counts")
    members = curves.get("member_accuracy")
    _require(not members or _is_series(members), "curves.member_accuracy", "must be a list of numbers")


def check_depth(data: object) -> None:
    """Raise a ValueError if data is nested too deep."""
    level = [data]
    for _ in range(DEEPEST):
        level = [inner for node in level for inner in _inside(node)]
    _require(not level, "the record", f"must not be nested more than {DEEPEST} deep")


def _inside(node: object) -> list[object]:
    if isinstance(node, Mapping):
        return list(node.values())
    return node if isinstance(node, list) else []


def _require_possible(name: str, value: float | None, kind: str) -> None:
    least, most = _RANGES.get(kind, (None, None))
    low = least is None or value is None or value >= least - _ROUNDING
    high = most is None or value is None or value <= most + _ROUNDING
    allowed = f"{least} or more" if most is None else f"{least} to {most}"
    _require(low and high, name, f"is {value}, which is impossible; must be {allowed}")


def _require(condition: bool, name: str, rule: str) -> None:
    if not condition:
        raise ValueError(f"{name} {rule}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_numbers(values: Mapping[str, object]) -> bool:
    return all(value is None or _is_number(value) for value in values.values())


def _is_series(values: object) -> bool:
    """Say whether a value is a list of numbers; null stands where JSON has no number."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(value is None or _is_number(value) for value in values)
    )


def no_constant(name: str) -> float:
    """Refuse NaN and infinities, which JSON does not have: a record writes null for them."""
    raise ValueError(f"{name} is not a number of JSON")
