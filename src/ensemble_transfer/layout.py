"""Names of the files in a run's folder, and how a file is written: whole or not at all."""

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
