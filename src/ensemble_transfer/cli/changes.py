"""Files that have changed since finished runs read them: a sweep knows its jobs by their settings alone."""

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from ensemble_transfer.layout import DESCRIPTION, ENSEMBLE, HYDRA


def warn_of_changes(finished: Iterable[tuple[Mapping[str, Any], Path]]) -> None:
    """Write a warning for every place of images or weights that is newer than runs that are not repeated.

    Args:
        finished: Configuration and record of each of these runs.
    """
    begun: dict[str, list[int]] = defaultdict(list)
    for config, record in finished:
        for path in dict.fromkeys(_paths(config)):
            begun[path].append(_begin(record))
    for path, times in begun.items():
        changed = _last_change(Path(path).expanduser())
        older = sum(time < changed for time in times)
        if older:
            runs = f"{older} finished run{'s' * (older != 1)}"
            sys.stderr.write(f"warning: {path} has changed since {runs} read it; remove their folders to repeat them\n")


def _paths(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths that tasks, given members and a checkpoint are read from; of a table of images, the table."""
    dataset, ood = config["dataset"], config["evaluation"].get("ood") or {}
    for task in (dataset.get("source"), dataset.get("target"), *ood.values()):
        path = task.get("path") if isinstance(task, Mapping) else None
        if isinstance(path, str):
            yield path
    backbone, ensemble = config["backbone"], config["ensemble"]
    given = backbone.get("checkpoint"), *(ensemble.get("members") or ()), *(ensemble.get("added") or ())
    for path in filter(None, given):
        yield next((str(file) for file in _descriptions(Path(path).expanduser()) if file.is_file()), path)


def _descriptions(folder: Path) -> Iterator[Path]:
    """Yield what tells that an ensemble was written anew, in the folder of a run or in its own."""
    yield from (folder / ENSEMBLE / DESCRIPTION, folder / DESCRIPTION)


def _begin(record: Path) -> int:
    """Return when a run started, in nanoseconds: it wrote its configuration then, before it read any image."""
    configuration = record.parent / HYDRA / "config.yaml"
    return (configuration if configuration.is_file() else record).stat().st_mtime_ns


def _last_change(path: Path) -> int:
    """Return when a file or a folder, or anything in it, was last written, renamed or removed; 0 if it is not there.

    This is the time of change, not that of modification, which copies keep.
    """
    latest = 0
    for place in (path, *(Path(folder, name) for folder, *names in os.walk(path) for name in chain(*names))):
        with suppress(OSError):
            latest = max(latest, place.stat().st_ctime_ns)
    return latest
