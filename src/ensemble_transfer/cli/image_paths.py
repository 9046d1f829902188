"""Images named on a command line: files, folders, patterns, and lists on standard input."""

from __future__ import annotations

import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def find_images(given: Iterable[str], report: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the paths of images, one by one and in the given order.

    Args:
        given: Files, taken as they are; folders, searched as an ``image_folder`` task searches them; patterns with
            ``*``, ``?``, ``[]`` and ``**``, sorted; ``-`` for a list on standard input, one path per line.
        report: Called with a name and a reason for each name that yields no image.
    """
    for name in given:
        if name == "-":
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from find_images((line for line in lines if line), report)
        elif os.path.isdir(name):  # noqa: PTH112  # names stay as they are written
            yield from _reported_if_none(name, _below(name), "a folder without images", report)
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


def _below(folder: str) -> Iterator[str]:
    from ensemble_transfer.tasks.folder import image_files

    return map(str, image_files(Path(folder)))
