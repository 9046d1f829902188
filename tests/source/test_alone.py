"""Members without a source task."""

import re
from dataclasses import replace

import pytest
from refusals import refusal
from safetensors.torch import save_file
from same import equal

from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.source.train import members_alone
from ensemble_transfer.weights import below


@pytest.fixture
def file(source_ensemble, tmp_path):
    save_file(below(source_ensemble.members[1], "encoder"), tmp_path / "own.safetensors")
    return str(tmp_path / "own.safetensors")


def test_members_are_copies_of_the_pretrained_encoder(backbone, source_ensemble, target_task, file):
    pretrained = replace(backbone, checkpoint=file)
    ensemble = members_alone(EnsembleSettings(), pretrained, target_task)
    assert len(ensemble) == 8
    assert ensemble.lineage == "copies"
    assert ensemble.classes == target_task.classes
    for member in ensemble.members:
        assert equal(below(member, "encoder"), below(source_ensemble.members[1], "encoder"))
        assert all(not tensor.any() for tensor in below(member, "head").values())  # it knows nothing
    assert "source" not in ensemble.history
    again = members_alone(EnsembleSettings(), pretrained, target_task, seed=1)
    assert again.fingerprint == ensemble.fingerprint


def test_without_weights_members_start_from_random_ones_of_their_own(backbone, target_task, caplog):
    with caplog.at_level("INFO"):
        ensemble = members_alone(EnsembleSettings(3), backbone, target_task)
    assert ensemble.lineage == "untrained"
    assert not equal(ensemble.members[0], ensemble.members[1])
    assert "resnet10t starts from random weights" in caplog.text
    assert equal(members_alone(EnsembleSettings(2), backbone, target_task).members[1], ensemble.members[1])


def test_given_members_are_taken_whatever_their_heads(backbone, target_task, source_ensemble, file, tmp_path):
    replace(source_ensemble, lineage="snapshot").save(tmp_path / "saved")
    alone = members_alone(EnsembleSettings(members=[str(tmp_path / "saved")]), backbone, target_task)
    assert alone.lineage == "snapshot"
    both = members_alone(EnsembleSettings(members=[file], added=[str(tmp_path / "saved")]), backbone, target_task)
    assert both.lineage == "shared"
    assert members_alone(EnsembleSettings(members=[file, file]), backbone, target_task).lineage == "copies"
    encoders = [below(source_ensemble.members[m], "encoder") for m in (1, 0, 1, 2)]
    assert all(equal(below(m, "encoder"), e) for m, e in zip(both.members, encoders, strict=True))


@pytest.mark.parametrize(("lineage", "now"), [("copies", "shared"), ("untrained", "independent")])
def test_a_saved_ensemble_of_fine_tuned_copies_has_members_that_differ(
    backbone, target_task, source_ensemble, tmp_path, lineage, now
):
    replace(source_ensemble, lineage=lineage).save(tmp_path / "saved")
    found = members_alone(EnsembleSettings(members=[str(tmp_path / "saved")]), backbone, target_task)
    assert found.lineage == now
    unmoved = replace(source_ensemble, lineage="copies", members=source_ensemble.members[:1] * 2)
    unmoved.save(tmp_path / "heads")
    found = members_alone(EnsembleSettings(members=[str(tmp_path / "heads")]), backbone, target_task)
    assert found.lineage == "copies"


def test_settings_of_a_source_task_are_refused_without_one(backbone, target_task, file):
    for settings, line in (
        (EnsembleSettings(lineage="independent"), r"^ensemble.lineage='independent': must be left out: there is no"),
        (EnsembleSettings(fork=0.1), r"^ensemble.fork=0.1: must be null: there is no source task"),
        (EnsembleSettings(3, members=[file]), r"^ensemble.size=3: is more than the 1 given members, and there is no "),
        (EnsembleSettings(lineage="mixed", members=[file]), r"^ensemble.lineage='mixed': must be left out"),
    ):
        assert re.match(line, str(refusal(members_alone, settings, backbone, target_task)))
