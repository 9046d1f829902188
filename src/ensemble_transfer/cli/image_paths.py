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
            continue
        found, reason = _named(name)
        empty = True
        for path in found:
            empty = False
            yield path
        if empty:
            report(name, reason)


def _named(name: str) -> tuple[Iterable[str], str]:
    """Return what a name stands for, and what to say if that is nothing."""
    if os.path.isdir(name):  # noqa: PTH112  # names stay as they are written
        from ensemble_transfer.tasks.folder import image_files

        return map(str, image_files(Path(name))), "a folder without images"
    if os.path.lexists(name):
        return [name], ""
    if glob.has_magic(name):
        found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
        return (path for path in found if not os.path.isdir(path)), "a pattern that matches no file"  # noqa: PTH112
    return [], "no such file"
