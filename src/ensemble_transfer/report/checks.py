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

_COSTS = ("total", "per_member", "marginal", "source", "prediction")
_GROUPS = ("dataset", "backbone", "ensemble", "strategy", "recipe", "trainer", "logger", "store", "evaluation")


def check(data: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first field of a record that is not what it must be.

    Args:
        data: The fields of a record that the file has, as parsed JSON.
    """
    _require(data["status"] in STATUSES, "status", f"must be one of {', '.join(STATUSES)}")
    for name in ("strategy", "dataset", "backbone", "command"):
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
    _require(_is_whole(data["seed"]), "seed", "must be a whole number")
    for name in ("size", "lineage"):
        if name in data["ensemble"]:
            fits = isinstance(data["ensemble"][name], str) if name == "lineage" else _is_whole(data["ensemble"][name])
            _require(fits, f"ensemble.{name}", "must be a whole number" if name == "size" else "must be a text")
    classes = data["ensemble"].get("classes", [])
    _require(
        isinstance(classes, list) and all(isinstance(c, str) for c in classes), "ensemble.classes", "must be texts"
    )
    _require(_is_numbers(data.get("metrics", {})), "metrics", "must be numbers or null")
    _check_cost(data.get("cost", {}))
    _check_curves(data.get("curves", {}))
    config = data.get("config", {})
    for name in _GROUPS:
        _require(isinstance(config.get(name, {}), Mapping), f"config.{name}", "must be an object")
    fork = config.get("ensemble", {}).get("fork")
    _require(fork is None or _is_number(fork), "config.ensemble.fork", "must be a number or null")
    versions = data.get("environment", {}).get("versions", {})
    _require(isinstance(versions, Mapping), "environment.versions", "must be an object")


def _check_cost(cost: Mapping[str, Any]) -> None:
    phases = cost.get("phases") or {}
    _require(isinstance(phases, Mapping), "cost.phases", "must be an object")
    parts = {f"phases.{name}": value for name, value in phases.items()}
    parts |= {name: cost[name] for name in _COSTS if cost.get(name) is not None}
    for name, part in parts.items():
        _require(isinstance(part, Mapping) and _is_numbers(part), f"cost.{name}", "must hold numbers")


def _check_curves(curves: Mapping[str, Any]) -> None:
    for name, columns in _COLUMNS.items():
        curve = curves.get(name)
        if curve:
            fits = isinstance(curve, Mapping) and all(_is_series(curve.get(column)) for column in columns)
            fits = fits and len({len(curve[column]) for column in columns}) == 1
            _require(fits, f"curves.{name}", f"must hold {', '.join(columns)}: lists of numbers of one length")
    for name in ("disagreement", "confusion"):
        matrix = curves.get(name)
        if matrix:
            fits = isinstance(matrix, list) and all(_is_series(line) and len(line) == len(matrix) for line in matrix)
            _require(fits, f"curves.{name}", "must be a square of numbers")
    counts = curves.get("confusion") or []
    _require(all(_is_whole(n) and n >= 0 for line in counts for n in line), "curves.confusion", "must hold counts")
    members = curves.get("member_accuracy")
    _require(not members or _is_series(members), "curves.member_accuracy", "must be a list of numbers")


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
