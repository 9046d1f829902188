"""Safetensors files, written whole or not at all; reading one never executes anything."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ensemble_transfer.layout import replacing
from ensemble_transfer.weights import Weights, copied


def write_tensors(path: Path, tensors: Weights, header: Mapping[str, str] | None = None) -> None:
    """Write tensors and a header of texts, beside the file's place and then into it in one move."""
    with replacing(path) as beside:
        beside.write_bytes(save(copied(tensors), dict(header or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a file.

    Raises:
        ValueError: If the file is missing, truncated or no safetensors file; the message does not name it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"is not a readable safetensors file: {error}") from error
