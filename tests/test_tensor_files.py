"""Safetensors files: the same content gives the same bytes."""

import torch
from safetensors.torch import load_file

from ensemble_transfer.tensor_files import read_tensors, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "ю": torch.zeros(0, 2)}
HEADER = {name: f'{name} → "text"' for name in ("scales", "format", "recipe", "options", "donors", "sha256")}


def test_what_was_written_is_read(tmp_path):
    write_tensors(tmp_path / "file", TENSORS, HEADER)
    tensors, header = read_tensors(tmp_path / "file")
    assert header == HEADER
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert load_file(tmp_path / "file").keys() == TENSORS.keys()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    backwards = dict(reversed(HEADER.items()))
    written = set()
    for trial in range(8):
        write_tensors(tmp_path / "file", TENSORS, backwards if trial % 2 else HEADER)
        written.add((tmp_path / "file").read_bytes())
    assert len(written) == 1


def test_processes_agree_on_the_bytes(forks, tmp_path):
    script = "import torch, pathlib; from ensemble_transfer.tensor_files import write_tensors\n"
    script += "write_tensors(pathlib.Path('one'), {'x': torch.ones(3)}, {str(i): 'text' for i in range(9)})"
    (tmp_path / "script.py").write_text(script)
    assert forks.run(tmp_path / "script.py", cwd=tmp_path).returncode == 0  # strings have other hashes there
    write_tensors(tmp_path / "two", {"x": torch.ones(3)}, {str(i): "text" for i in range(9)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tensors_without_a_header_are_written_too(tmp_path):
    write_tensors(tmp_path / "file", TENSORS)
    assert read_tensors(tmp_path / "file")[1] == {}
