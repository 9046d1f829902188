"""Read ``.npz`` files of any origin, and predictions from them: a run's ``predictions.npz`` or a file of its layout."""

import hashlib
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from ensemble_transfer.metrics.predictive import blocks, log_probability
from ensemble_transfer.spill import empty

MOST_EXPANSION = 1032
"""Bytes that one compressed byte can stand for: the limit of DEFLATE. Whoever claims more lies."""

LARGE = 2**22
"""Probabilities of an array from which on it is kept in half precision: 16 MB."""

CHECKSUM = "checksum"
"""The array of a run's predictions that holds the checksum of the others."""


def read_predictions(path: str) -> tuple[dict[str, Any], list[str]]:
    """Read the arguments of :func:`ensemble_transfer.metrics.evaluate.evaluate`; nothing is unpickled.

    Args:
        path: An .npz file with ``probabilities`` and ``labels``, and optionally ``validation/probabilities`` and
            ``validation/labels``, ``ood/<name>/probabilities``, ``corruption/<name>/<severity>/probabilities``. Any of
            the probabilities may be given as ``.../logits`` instead.

    Returns:
        The arguments by name, and the names of the arrays that were not used.

    Raises:
        ValueError: There is no .npz file, an array is missing or cannot be read, a severity is not an integer, or the
            file has a checksum that does not match.
    """
    with open_archive(Path(path)) as archive:
        _require_whole(archive)
        given = {name: _array(archive, name) for name in ("probabilities", "labels")}
        validation, ood, corruptions, unread = None, {}, {}, []
        names = [_read_as(name, archive.files) for name in archive.files]
        if {"validation/probabilities", "validation/labels"} & set(names):
            validation = tuple(_array(archive, f"validation/{name}") for name in given)
        for name in names:
            match name.split("/"):
                case ["probabilities" | "labels"] | ["validation", "probabilities" | "labels"]:
                    pass
                case ["source", *_] | ["soup", *_] | ["checksum"]:  # of a run's source ensemble, and of its soup
                    pass
                case ["ood", kind, "probabilities"]:
                    ood[kind] = _array(archive, name)
                case ["corruption", kind, severity, "probabilities"]:
                    if not severity.isdecimal():
                        raise ValueError(f"array {name!r} has severity {severity!r}; must be an integer")
                    corruptions[kind, int(severity)] = _array(archive, name)
                case _:
                    unread.append(name)
        return {**given, "validation": validation, "ood": ood, "corruptions": corruptions}, unread


def open_archive(path: Path) -> NpzFile:
    """Open an .npz file, without unpickling anything; raise a ValueError if there is none to be read."""
    if path.is_file() and is_zipfile(path):  # reading a pipe would never end, and NumPy forgets to close what is no zip
        with suppress(ValueError, OSError, BadZipFile, pickle.UnpicklingError):
            archive = np.load(path, allow_pickle=False)
            if isinstance(archive, NpzFile):
                return archive
    raise ValueError("must be an .npz file that exists and is whole, as numpy.savez writes it")


def read_array(archive: NpzFile, name: str) -> NDArray[Any]:
    """Read one array of an open .npz file, once its header claims no more than the file holds.

    Raises:
        ValueError: The array cannot be read, holds objects, or claims more bytes than its place in the file has.
    """
    assert archive.zip is not None
    try:
        _require_held(archive.zip, name)
        array: NDArray[Any] = archive[name]
    except Exception as error:  # a header is Python's syntax, and whatever its parser raises is passed on
        raise ValueError(f"array {name!r} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return array


def _require_held(archive: ZipFile, name: str) -> None:
    """Raise a ValueError if the header of an array claims more than is there; nothing is allocated."""
    entry = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError("it is compressed by another method than numpy.savez uses")
    if entry.file_size > MOST_EXPANSION * (entry.compress_size + 1):
        found = f"it claims {entry.file_size} bytes in {entry.compress_size} compressed ones"
        raise ValueError(f"{found}; must be at most {MOST_EXPANSION} times as many")
    with archive.open(entry) as file:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds objects; must hold numbers or text")
    claimed = math.prod(shape) * max(1, dtype.itemsize)
    if claimed > entry.file_size:
        raise ValueError(f"it claims {claimed} bytes; must be at most the {entry.file_size} that the file holds for it")


def compact(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return arrays of a run with large probabilities as logits in half precision, which take half the room.

    A logit is log p less the largest of its example. So the predicted class of a member stays what it is, and log p
    keeps eleven bits: the NLL changes by less than a 2,000th of itself. Probabilities in half precision would lose
    those below 6e-8. ``X/probabilities`` becomes ``X/logits``; :func:`read_predictions` reads both.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if name.split("/")[-1] != "probabilities" or array.size < LARGE:
            found[name] = array
            continue
        probabilities, logits = torch.from_numpy(array), empty(*array.shape, dtype=torch.float16)
        for rows in blocks(probabilities):
            log_p = log_probability(probabilities[..., rows, :])
            logits[..., rows, :] = (log_p - log_p.amax(dim=-1, keepdim=True)).half()
        found[f"{name.removesuffix('probabilities')}logits"] = logits.numpy()
    return found


def with_checksum(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return arrays and their checksum, to be saved by ``numpy.savez``."""
    return {**arrays, CHECKSUM: np.array(_checksum(arrays.items()))}


def _checksum(arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    lines = []
    for name, array in arrays:  # one at a time is in memory
        digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        lines.append((name, digest.hexdigest()))
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(lines)).encode()).hexdigest()


def _require_whole(archive: NpzFile) -> None:
    """Raise a ValueError if a name is not printable, or a file has a checksum that does not match."""
    for name in archive.files:
        if not name.isprintable():
            raise ValueError(f"has an array {name!r}; names must be printable")
    if CHECKSUM in archive.files:
        others = ((name, read_array(archive, name)) for name in archive.files if name != CHECKSUM)
        if str(read_array(archive, CHECKSUM)) != _checksum(others):
            raise ValueError("its checksum does not match: it was edited or damaged after it was written")


def _read_as(name: str, names: Sequence[str]) -> str:
    """Return the name under which an array is used: logits as probabilities, where there are none."""
    probabilities = f"{name.removesuffix('logits')}probabilities"
    return probabilities if name.split("/")[-1] == "logits" and probabilities not in names else name


def _array(archive: NpzFile, name: str) -> NDArray[Any]:
    """Read an array; of probabilities that are not there, the softmax of their logits, float32."""
    logits = f"{name.removesuffix('probabilities')}logits"
    if name in archive.files:
        return read_array(archive, name)
    if logits not in archive.files:
        raise ValueError(f"has no array {name!r}; its arrays are: {', '.join(archive.files) or 'none'}")
    array = read_array(archive, logits)
    if array.ndim < 2 or array.dtype.kind != "f":
        raise ValueError(f"array {logits!r} has shape {array.shape} of {array.dtype}; must be floats by class")
    native = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.float64
    given = torch.from_numpy(np.require(array, native, ["C", "W"]))
    found = empty(*given.shape)
    for rows in blocks(given):
        found[..., rows, :] = given[..., rows, :].float().softmax(dim=-1)
    return found.numpy()
