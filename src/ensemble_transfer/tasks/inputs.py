"""What a task is made from: the files that its loader reads, and what tells them from others without reading them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def digest_of(*texts: str) -> str:
    """Return a SHA-256 of texts in their order, as 64 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode(errors="surrogateescape")).hexdigest()


def state_of(paths: Iterable[Path]) -> str:
    """Return a text that changes with the content of files, known by size, place and times."""
    digest = hashlib.sha256()
    for path in paths:
        version = "none"
        with suppress(OSError, ValueError):  # as for NUL in a name
            stat = path.stat()
            version = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_mode}"
        digest.update(os.fsencode(path.absolute()) + b"\0" + version.encode() + b"\0")
    return digest.hexdigest()


def files_below(
    folder: Path, unreadable: Callable[[OSError], None] | None = None, above: frozenset[Path] = frozenset()
) -> Iterator[Path]:
    """Yield the files of a folder and of all folders below it, sorted, without hidden ones; links are followed.

    Args:
        folder: Where to search.
        unreadable: Called for a folder that cannot be read, which is left out; None to raise the error.
        above: Resolved folders that are not entered again, as a link might lead to them.
    """
    here = folder.resolve()
    above |= {here, *here.parents}
    try:
        entries = [(entry, entry.is_dir()) for entry in visible(folder)]
    except OSError as error:
        if unreadable is None:
            raise
        unreadable(error)
        return
    for entry, is_folder in entries:
        if not is_folder:
            yield entry
        elif entry.resolve() not in above:  # a link may lead back up
            yield from files_below(entry, unreadable, above)


def visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without what is hidden."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
