"""The shift vector on disk, and the ensembles and tasks that it fits."""

from dataclasses import replace

import pytest
import torch
from refusals import refusal
from same import equal

from ensemble_transfer import Backbone, Ensemble, SettingError, Shift, ShiftVector
from ensemble_transfer.tensor_files import read_tensors, write_tensors


@pytest.fixture(scope="module")
def vector(transfer):
    return transfer(Shift(donors=2, scale=0.75, head="donor", finish="head")).shift


def test_a_vector_survives_the_disk(vector, tmp_path):
    again = ShiftVector.load(vector.save(tmp_path))
    assert equal(again.vector, vector.vector)
    assert all(torch.equal(again.scaled()[name], 0.75 * tensor) for name, tensor in vector.vector.items())
    assert (again.scale, again.provenance) == (0.75, vector.provenance)
    assert again.donors == (0, 1)
    assert Shift(**again.options) == Shift(donors=2, scale=0.75, head="donor", finish="head")


def _another_number(tensors, _):
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1


def _without(key):
    return lambda _, header: header.pop(key)


def _with(**entries):
    return lambda _, header: header.update(entries)


@pytest.mark.parametrize(
    ("tamper", "rule"),
    [
        (_another_number, "checksum"),
        (_with(format="1"), "must have format 4"),
        (_without("sha256"), "sha256"),
        (_without("donor_weights"), "checksum"),
        (_with(scale="2.0"), "checksum"),
    ],
)
def test_a_tampered_file_is_refused_by_name(vector, tmp_path, tamper, rule):
    path = vector.save(tmp_path)
    tensors, header = read_tensors(path)
    tamper(tensors, header)
    write_tensors(path, tensors, header)
    error = refusal(ShiftVector.load, path)
    assert error.value == str(path)
    assert rule in error.rule


def test_a_truncated_or_missing_file_is_refused_by_name(vector, tmp_path):
    path = vector.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    for file in (path, tmp_path / "nowhere.safetensors", tmp_path):
        error = refusal(ShiftVector.load, file)
        assert error.value == str(file)
        assert "not a readable shift vector" in error.rule


def test_a_vector_fits_its_own_ensemble_and_one_that_has_grown(vector, source_ensemble, target_task):
    vector.require_fit(source_ensemble, target_task)
    vector.require_fit(source_ensemble, target_task.sealed())
    grown = replace(source_ensemble, members=(*source_ensemble.members, source_ensemble.members[0]))
    vector.require_fit(grown, target_task)


def test_a_vector_is_refused_for_another_task_other_donors_or_another_encoder(
    vector, source_ensemble, source_task, target_task
):
    with pytest.raises(SettingError, match="made for another task"):
        vector.require_fit(source_ensemble, source_task)
    swapped = replace(source_ensemble, members=source_ensemble.members[::-1])
    with pytest.raises(SettingError, match="made from other donors than members 0,1"):
        vector.require_fit(swapped, target_task)
    with pytest.raises(SettingError, match="names donors that are no members"):
        vector.require_fit(replace(source_ensemble, members=source_ensemble.members[:1]), target_task)
    wide = Backbone("resnet10t", {"channels": [4, 8, 8, 12], "stem_width": 4, "output_stride": 8}).architecture(8, 1, 5)
    other = Ensemble(wide, (wide.initial(0),) * 3, source_ensemble.classes)
    with pytest.raises(SettingError, match="other tensors than the encoder resnet10t"):
        vector.require_fit(other, target_task)
