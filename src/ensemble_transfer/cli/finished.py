"""Finished runs below a folder, recognised by what decided their result, and the best of a search by Optuna."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf

from ensemble_transfer.layout import RECORD
from ensemble_transfer.report.record import Record
from ensemble_transfer.report.settings import decisive

WINNER = "winner_"
"""In a search's folder: how the folder is named in which the best trial is evaluated on test."""

OBJECTIVE = "target/validation/calibrated/nll"
"""What a search minimises: the NLL on validation after cross-calibration, in nats."""


_read: dict[Path, tuple[tuple[int, ...], Record]] = {}
"""Records that this process has read, with the state of their files: every trial of a search looks at all others."""


def finished(path: Path) -> Record | None:
    """Return a finished record; None where there is none, or one that is damaged."""
    record = _record(path)
    return record if record is not None and record.status == "finished" else None


def status(path: Path) -> str:
    """Return how the run of a record ended: ``finished``, ``failed`` or ``interrupted``; a damaged one has failed."""
    record = _record(path)
    return "failed" if record is None else record.status


def _record(path: Path) -> Record | None:
    try:
        stat = path.stat()
        state = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if path not in _read or _read[path][0] != state:
            _read[path] = state, Record.load(path)
    except (OSError, ValueError):  # the job runs again and replaces it
        return None
    return _read[path][1]


def identity(config: Mapping[str, Any]) -> str:
    """Return what is equal for two configurations, as records keep them, whose runs have the same result."""
    return json.dumps(decisive(config), sort_keys=True)


def finished_in(sweep: Path) -> dict[str, list[Path]]:
    """Return the files of a sweep's finished records by the identity of their configuration."""
    found: dict[str, list[Path]] = {}
    for path in sorted(sweep.rglob(RECORD)):
        record = None if _is_within_a_run(path, sweep) else finished(path)
        if record is not None:
            asked = {"budget": record.cost["asked"]} if "asked" in record.cost else {}
            found.setdefault(identity({**record.config, **asked}), []).append(path)
    return found


def taken(records: list[Path], settings: Mapping[str, Any], alike: bool) -> Path | None:
    """Take a record out of those of a result, for one job; None if there is none.

    Args:
        records: Files of finished records.
        settings: Configuration of the job.
        alike: Whether trainer and store must be the same too, such as threads, which decide no result.
    """
    for path in records:
        record = finished(path)
        same = record is not None and all(record.config.get(g) == settings.get(g) for g in ("trainer", "store"))
        if same or not alike:
            records.remove(path)
            return path
    return None


def _is_within_a_run(path: Path, sweep: Path) -> bool:
    """Return whether a record below a sweep's folder lies in a run's folder, as those of its rivals do."""
    above = [folder for folder in path.parent.parents if sweep in folder.parents]
    return any((folder / RECORD).is_file() for folder in above)


def is_search(hydra: HydraConf) -> bool:
    """Return whether a sweep is a search by Optuna, from Hydra's own configuration of it."""
    return "study_name" in hydra.sweeper


def winner(folder: Path) -> list[str] | None:
    """Return the arguments that evaluate the best trial of a search on test.

    None if no trial has finished, or the best has been evaluated.
    """
    found = {path.parent.name: finished(path) for path in sorted(folder.glob(f"*/{RECORD}"))}
    trials = {name: record for name, record in found.items() if record is not None and not record.tested}
    reached = {name: nll for name, trial in trials.items() if (nll := trial.metrics.get(OBJECTIVE)) is not None}
    if not reached:
        return None
    best = min(reached, key=lambda name: reached[name])
    where = folder / f"{WINNER}{best}"
    if finished(where / RECORD) is not None:
        return None
    words, quoted = shlex.split(trials[best].command)[3:], str(where).replace("'", r"\'")
    words = [word for word in words if not word.lstrip("+").startswith("evaluation.test=")]
    return [*words, "evaluation.test=true", f"hydra.run.dir='{quoted}'", "hydra.mode=RUN"]
