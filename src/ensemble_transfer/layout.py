"""Names of the files in a run's folder, what an older run left there, and atomic writing."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECORD = "record.json"
PREDICTIONS = "predictions.npz"
SUMMARY = "summary.md"
SHIFT = "shift.safetensors"
TRACEBACK = "traceback.txt"

ENSEMBLE = "ensemble"
"""Folder of the transferred ensemble."""

DESCRIPTION = "ensemble.json"
"""In the folder of an ensemble: what its members are."""

CALIBRATION = "calibration.safetensors"
"""In the folder of an ensemble: temperature and validation predictions."""

CARD = "README.md"
"""In the folder of an ensemble: the model card."""


MEMBERS = "member_*.safetensors"
"""In the folder of an ensemble: the members' weights."""


def clear(folder: Path) -> None:
    """Remove the files that an older run left in a folder; what else lies there stays.

    The record goes first: a folder that has one has all other files too.
    """
    for name in (RECORD, PREDICTIONS, SUMMARY, SHIFT, TRACEBACK):
        (folder / name).unlink(missing_ok=True)
    for name in (DESCRIPTION, CALIBRATION, CARD):
        (folder / ENSEMBLE / name).unlink(missing_ok=True)
    for member in (folder / ENSEMBLE).glob(MEMBERS):
        member.unlink()


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
