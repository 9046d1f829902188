"""Names and checksums of the files in a run's folder, what an older run left, atomic writing, folders users share."""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from ensemble_transfer.errors import SettingError

RECORD = "record.json"
PREDICTIONS = "predictions.npz"
OUTDATED = "record_outdated.json"
"""Record of a run whose images or code have changed since: it waits for the run that replaces it."""

SUMMARY = "summary.md"
SHIFT = "shift.safetensors"
TRACEBACK = "traceback.txt"
ERRORS = "errors.html"

HYDRA = ".hydra"
"""Folder of the configuration as Hydra composed it, which is written when a job starts."""

ENSEMBLE = "ensemble"
"""Folder of the transferred ensemble."""

DESCRIPTION = "ensemble.json"
"""In the folder of an ensemble: what its members are."""

CALIBRATION = "calibration.safetensors"
"""In the folder of an ensemble: temperature and validation predictions."""

CARD = "README.md"
"""In the folder of an ensemble: the model card."""

OF_A_RUN = (RECORD, OUTDATED, PREDICTIONS, SUMMARY, SHIFT, TRACEBACK, ERRORS)
OF_AN_ENSEMBLE = (DESCRIPTION, CALIBRATION, CARD)
"""What lies in the folder of a run, and beside the members in that of an ensemble; a record goes first."""

MEMBERS = "member_*.safetensors"
"""In the folder of an ensemble: the members' weights."""


def clear(folder: Path) -> None:
    """Remove the files that an older run left in a folder; what else lies there stays.

    The record goes first: a folder that has one has all other files too.
    """
    for name in OF_A_RUN:
        (folder / name).unlink(missing_ok=True)
    for name in OF_AN_ENSEMBLE:
        (folder / ENSEMBLE / name).unlink(missing_ok=True)
    partial = f".*.{'[0-9a-f]' * 32}"  # what a killed job was writing, see :func:`replacing`
    for path in (*(folder / ENSEMBLE).glob(MEMBERS), *(folder / ENSEMBLE).glob(partial), *folder.glob(partial)):
        path.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path, setting: str | None = None) -> Iterator[None]:
    """Keep a folder to one process at a time; one that is killed lets it go.

    Args:
        folder: A folder that exists.
        setting: Name of the setting that a run's folder comes from; None to wait for the folder.

    Raises:
        SettingError: If another run is writing into the folder now.
    """
    try:
        place = os.open(folder, os.O_RDONLY)
    except OSError:  # the run itself says what is wrong with it
        yield
        return
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | (fcntl.LOCK_NB if setting else 0))
        except BlockingIOError:
            rule = "is being written by another run that still goes on; wait for it, or choose another folder"
            raise SettingError(setting or "folder", str(folder), rule) from None
        except OSError:  # a file system without locks of folders: nothing keeps two apart there
            pass
        yield
    finally:
        os.close(place)


def lock_of(path: Path) -> FileLock:
    """Return the lock in a file, which everybody who may write into its folder may take."""
    try:
        mode = path.parent.stat().st_mode & 0o666
    except OSError:  # to take the lock fails for the same reason
        mode = 0o644
    return FileLock(path, mode=mode)


def make_below(root: Path, folder: Path) -> None:
    """Make a folder, and those above it, with the permissions of the root: a group shares all of it, or nothing.

    Args:
        root: A folder that exists.
        folder: A folder below it.
    """
    for place in reversed([folder, *(place for place in folder.parents if root in place.parents)]):
        try:
            place.mkdir()
        except FileExistsError:
            continue
        with suppress(OSError):  # a file system without permissions
            place.chmod(root.stat().st_mode & 0o7777)


def checksum(data: Mapping[str, Any]) -> str:
    """Return the checksum of a parsed JSON file: a SHA-256 of all fields but ``checksum``, whatever their order."""
    rest = {name: value for name, value in data.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside a file; what is written there takes the file's place in one move, if no error is raised.

    Raises:
        OSError: If the file cannot be written, or the disk is full; it names the file.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
