"""Images as a command line names them: files, folders, patterns, and lists on standard input."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def find_images(given: Iterable[str], report: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the paths of images, in order and as they come.

    Args:
        given: Files, taken as they are; folders, searched as an ``image_folder`` task does; patterns with ``*``,
            ``?``, ``[]`` and ``**``, sorted; ``-`` for a list on standard input, one path a line.
        report: Called with a name and what is wrong with it, for names that yield nothing.
    """
    for name in given:
        if name == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from find_images((line for line in lines if line), report)
        elif os.path.isdir(name):  # noqa: PTH112  # names stay as they are written
            yield from _reported_if_none(name, _below(Path(name)), "a folder without images", report)
        elif os.path.lexists(name):
            yield name
        elif glob.has_magic(name):
            found = (path for path in sorted(glob.glob(name, recursive=True)) if not os.path.isdir(path))  # noqa: PTH112, PTH207
            yield from _reported_if_none(name, found, "a pattern that matches no file", report)
        else:
            report(name, "no such file")


def _reported_if_none(
    name: str, found: Iterator[str], reason: str, report: Callable[[str, str], None]
) -> Iterator[str]:
    first = next(found, None)
    if first is None:
        report(name, reason)
    else:
        yield first
        yield from found


def _below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[str]:
    from ensemble_transfer.tasks.folder import SUFFIXES

    here = folder.resolve()
    above |= {here, *here.parents}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if entry.suffix.lower() in SUFFIXES:
                yield str(entry)
        elif entry.resolve() not in above:  # else a link that leads round in circles
            yield from _below(entry, above)
