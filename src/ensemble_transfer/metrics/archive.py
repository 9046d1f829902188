"""Read saved predictions: a run's ``predictions.npz``, or anybody's file of the same layout."""

import pickle
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray


def read_predictions(path: str) -> tuple[dict[str, Any], list[str]]:
    """Read what :func:`ensemble_transfer.metrics.evaluate.evaluate` takes; nothing is unpickled.

    Args:
        path: An .npz file with ``probabilities`` and ``labels``, optionally ``validation/probabilities`` and
            ``validation/labels``, ``ood/<name>/probabilities``,
            ``corruption/<name>/<severity>/probabilities``.

    Returns:
        The arguments by name, and the names of the file's arrays that none of them is made of.

    Raises:
        ValueError: The file cannot be read or is no .npz file, an array is missing or cannot be read, or a
            severity is not an integer.
    """
    try:
        with Path(path).open("rb") as file:
            return _sorted_out(_archive(file))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _sorted_out(archive: NpzFile) -> tuple[dict[str, Any], list[str]]:
    ood, corruptions, unread = {}, {}, []
    given = {name: _array(archive, name) for name in ("probabilities", "labels")}
    validation = None
    if {"validation/probabilities", "validation/labels"} & set(archive.files):
        validation = (_array(archive, "validation/probabilities"), _array(archive, "validation/labels"))
    for name in archive.files:
        match name.split("/"):
            case ["probabilities" | "labels"] | ["validation", "probabilities" | "labels"]:
                pass
            case ["source", *_] | ["soup", *_]:  # of a run's source ensemble, and of its single-model soup
                pass
            case ["ood", kind, "probabilities"]:
                ood[kind] = _array(archive, name)
            case ["corruption", kind, severity, "probabilities"]:
                corruptions[kind, _severity(severity, name)] = _array(archive, name)
            case _:
                unread.append(name)
    return {**given, "validation": validation, "ood": ood, "corruptions": corruptions}, unread


def _archive(file: BinaryIO) -> NpzFile:
    try:
        archive = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError("is no .npz file; must be one, as numpy.savez writes it") from error
    if not isinstance(archive, NpzFile):
        raise ValueError("holds a single array; must be an .npz file, as numpy.savez writes it")
    return archive


def _array(archive: NpzFile, name: str) -> NDArray[Any]:
    if name not in archive.files:
        raise ValueError(f"has no array {name!r}; its arrays are: {', '.join(archive.files) or 'none'}")
    try:
        array = archive[name]
    except (ValueError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise ValueError(f"array {name!r} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name!r} is no NumPy array; must be saved by numpy.savez")
    return array


def _severity(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"array {name!r} has severity {text!r}; must be an integer")
    return int(text)
