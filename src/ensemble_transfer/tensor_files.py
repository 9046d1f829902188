"""Safetensors files: written whole or not at all, and read without executing anything."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ensemble_transfer.layout import replacing
from ensemble_transfer.weights import Weights, copied, fingerprint


def write_tensors(path: Path, tensors: Weights, header: Mapping[str, str] | None = None) -> None:
    """Write tensors and a header of texts; an older file is replaced in one move."""
    with replacing(path) as beside:
        beside.write_bytes(save(copied(tensors), dict(header or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a file.

    Raises:
        ValueError: If the path is missing, a pipe or a device, or not a whole safetensors file. The message does not
            name the path.
    """
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise ValueError("is not a readable safetensors file: it is not a regular file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"is not a readable safetensors file: {error}") from error


def tensors_of(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a file's content.

    Raises:
        ValueError: If it is not that of a whole safetensors file.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"is not a readable safetensors file: {error}") from error
    # A file is the length of its header (8 bytes, little endian), the header (JSON, padded with spaces), the tensors.
    end = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, str] = json.loads(data[8:end]).get("__metadata__", {})
    return tensors, header


def checksum(tensors: Weights, header: Mapping[str, str]) -> str:
    """Return a SHA-256 of tensors and of the header's texts, as 64 hexadecimal digits."""
    texts = json.dumps(dict(header), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"{fingerprint(tensors)} {texts}".encode()).hexdigest()
