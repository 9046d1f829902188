"""Safetensors files: what was written is read, from a file and from its content."""

import torch
from safetensors.torch import load_file

from ensemble_transfer.tensor_files import read_tensors, tensors_of, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "ю": torch.zeros(0, 2)}
HEADER = {name: f'{name} → "text"' for name in ("scales", "format", "recipe", "options", "donors", "sha256")}


def test_what_was_written_is_read(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, HEADER)
    for tensors, header in (read_tensors(tmp_path / "file"), tensors_of((tmp_path / "file").read_bytes())):
        assert header == HEADER
        assert tensors.keys() == TENSORS.keys() == load_file(tmp_path / "file").keys()
        for name, tensor in TENSORS.items():
            assert torch.equal(tensors[name], tensor)
            assert tensors[name].dtype == tensor.dtype
