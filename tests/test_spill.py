"""Tensors that go to a temporary file where memory is short."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ensemble_transfer import spill


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(spill, "SMALL", 0)


def files_without_a_name():
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("(deleted)")]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_a_tensor_that_takes_more_than_half_of_what_is_free_is_mapped_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = len(files_without_a_name())
    fits = spill.empty(50, dtype=torch.float16, free=200)
    assert len(files_without_a_name()) == before
    mapped = spill.empty(3, 17, dtype=torch.float16, free=200)
    assert (mapped.shape, mapped.dtype, fits.shape) == ((3, 17), torch.float16, (50,))
    assert len(files_without_a_name()) == before + 1
    assert not list(tmp_path.iterdir())
    mapped[:] = torch.arange(51).view(3, 17)
    assert mapped.sum() == 51 * 25
    del mapped
    assert len(files_without_a_name()) == before


def test_a_disk_without_room_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(MemoryError, match=r"^2\.0 GiB do not fit into memory, and .* has 1\.0 GiB; set TMPDIR"):
        spill.empty(2**29 + 1, free=0)
