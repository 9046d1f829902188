"""Finished runs below a folder, recognised by what decided their result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import RECORD
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive


def finished(path: Path) -> Record | None:
    """Return a finished record; None where there is none, or one that is damaged or of another version."""
    try:
        record = Record.load(path)
    except (OSError, ValueError):  # the job runs again and replaces it
        return None
    return record if record.status == "finished" else None


def identity(config: Mapping[str, Any]) -> str:
    """Return what is equal for two configurations, as records keep them, whose runs have the same result."""
    return json.dumps(decisive(config), sort_keys=True)


def finished_in(sweep: Path) -> dict[str, Record]:
    """Return the finished records of a sweep by the identity of their configuration."""
    records = (finished(path) for path in sorted(sweep.glob(f"*/{RECORD}"), reverse=True))
    return {identity(record.config): record for record in records if record is not None}
