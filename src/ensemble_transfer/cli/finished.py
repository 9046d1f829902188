"""Finished runs below a folder, recognised by what decided their result."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import RECORD
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive

_read: dict[Path, tuple[int, Record | None, dict[str, Any]]] = {}
"""Finished records that this process has read, by path: time of change, record, what decided its result."""


def finished(path: Path) -> tuple[Record | None, dict[str, Any]]:
    """Return a finished record and what decided its result; None for one that is not finished or is damaged.

    A record that has not changed is read once by a process.
    """
    try:
        changed = path.stat().st_mtime_ns
        if path not in _read or _read[path][0] != changed:
            record = Record.load(path)
            known = record if record.status == "finished" else None
            _read[path] = changed, known, decisive(record.config) if known else {}
    except (OSError, ValueError):
        return None, {}  # damaged or of another version: the job runs again and replaces it
    return _read[path][1:]


def identity(config: Mapping[str, Any]) -> Hashable:
    """Return what is equal for two configurations whose runs have the same result.

    Args:
        config: A resolved configuration, as records keep it.
    """
    return _hashable(decisive(config))


def finished_in(sweep: Path) -> dict[Hashable, Record]:
    """Return the finished records of a sweep by the identity of their configuration."""
    found: dict[Hashable, Record] = {}
    for path in sorted(sweep.glob(f"*/{RECORD}")):
        record, what = finished(path)
        if record is not None:
            found.setdefault(_hashable(what), record)
    return found


def _hashable(node: Any) -> Hashable:  # noqa: ANN401
    if isinstance(node, Mapping):
        return frozenset((name, _hashable(inner)) for name, inner in node.items())
    return tuple(map(_hashable, node)) if isinstance(node, list | tuple) else node
