"""Which strategies take members that are copies of one encoder, and what these make of them."""

import re
from dataclasses import replace

import pytest
import torch
from refusals import refusal

from ensemble_transfer import Backbone, EnsembleSettings, Fitter, members_alone
from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.transfer.base import UNSHIFTABLE
from ensemble_transfer.weights import below

SHIFTS = ("shift", "zero_shot", "turns", "random_shift")
OTHERS = ("full", "few", "snapshots", "head", "tiny", "lp_ft", "star", "scratch")


@pytest.fixture(scope="module")
def copies(backbone, source_ensemble, target_task, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pretrained.pt"
    torch.save(dict(below(source_ensemble.members[0], "encoder")), path)
    pretrained = Backbone(backbone.name, backbone.options, checkpoint=str(path), mean=[0.5], std=[0.5])
    return members_alone(EnsembleSettings(3), pretrained, target_task)


@pytest.mark.parametrize("name", OTHERS)
def test_strategies_that_train_take_copies(transfer, copies, name):
    result = transfer(preset_object("strategy", name), copies)
    one, other = result.ensemble.members[:2]
    assert not torch.equal(one["head.weight"], other["head.weight"])  # every member has its own randomness
    assert "source_ensemble" not in result.ensemble.history
    assert all(not tensor.any() for tensor in below(copies.members[0], "head").values())


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("lineage", UNSHIFTABLE)
def test_strategies_that_shift_refuse_copies_before_anything_is_trained(
    transfer, source_ensemble, monkeypatch, name, lineage
):
    same = replace(source_ensemble, lineage=lineage)
    monkeypatch.setattr(Fitter, "fit", lambda *_: pytest.fail("trained"))
    error = refusal(transfer, preset_object("strategy", name), same)
    assert re.match(rf"strategy='{name}': needs members that differ; here .*: take few, ", str(error))
