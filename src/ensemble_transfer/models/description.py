"""The description of a saved ensemble, ``ensemble.json``, and the files of members that it names: data of strangers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ensemble_transfer.errors import SettingError, one_line, require
from ensemble_transfer.layout import DESCRIPTION, checksum
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.bounds import numbers
from ensemble_transfer.tensor_files import read_tensors
from ensemble_transfer.weights import Weights, fingerprint

FORMAT = 2
"""Of ``ensemble.json``; since 2 it has a checksum."""

MAX_BYTES = 2**24
"""Of ``ensemble.json``; 100,000 classes take a tenth."""


@contextmanager
def readable(setting: str, path: Path) -> Iterator[None]:
    """Turn whatever fails in the block, which reads a saved ensemble, into a SettingError of one line."""
    try:
        yield
    except SettingError:
        raise
    except Exception as error:  # options of a stranger's file can make timm raise anything
        raise SettingError(setting, str(path), f"is not a readable ensemble: {one_line(error)}") from error


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of ``ensemble.json``, after checking its checksum and every field but the architecture's.

    Raises:
        SettingError: If the file is too large, a field is not what it must be, or the checksum does not match.
        OSError, ValueError, KeyError: If it cannot be read, is no JSON, or lacks a field.
    """
    if path.exists():
        readable = path.is_file() and path.stat().st_size <= MAX_BYTES
        require(readable, "ensemble", str(path), f"must be a file of at most {MAX_BYTES} bytes")
    description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    form = description["format"]
    require(type(form) is int and form == FORMAT, "format", form, f"{path} must have format {FORMAT}")
    classes, lineage, history = (description[name] for name in ("classes", "lineage", "history"))
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    require(named, "classes", str(path), "must be a list of names")
    require(isinstance(lineage, str), "lineage", lineage, f"{path} must have a word")
    require(isinstance(history, dict), "history", str(path), "must be an object")
    whole = description["checksum"] == checksum(description)
    require(whole, "ensemble", str(path), "was edited or damaged after it was written: its checksum does not match")
    return description


def require_proportion(architecture: Architecture, members: Sequence[Weights]) -> None:
    """Raise unless a description asks for no more than its members' files can fill.

    Building a network takes time and memory, and its weights can be compared only then. No depth or width is larger
    than the number of weights, so a file cannot ask for more than it holds.
    """
    held = max((sum(tensor.numel() for tensor in member.values()) for member in members), default=0)
    asked = {f"options.{name}": value for name, value in architecture.options.items()}
    for name, value in {**asked, "classes": architecture.classes}.items():
        largest = max((abs(number) for number in numbers(value)), default=0)
        fits = largest <= held or not members
        require(fits, name, largest, f"is more than the {held} numbers that a member's file holds")


def read_member(folder: Path, file: str, sha256: str, image_size: int) -> Weights:
    """Return a member's weights, given what a description says of it; raise a SettingError if they are others."""
    path = folder / file
    require(type(image_size) is int, "image_size", image_size, f"{folder / DESCRIPTION} must have a number of pixels")
    if path.parent != folder:
        raise SettingError("file", file, "must be the name of a file beside ensemble.json")
    try:
        weights, _ = read_tensors(path)
    except ValueError as error:
        raise SettingError("member", str(path), str(error)) from error
    if fingerprint(weights) != sha256:
        raise SettingError("member", str(path), "does not have the checksum that ensemble.json states")
    return weights
