"""Source members that exist already."""

from dataclasses import replace

import pytest
import timm
import torch
from refusals import refusal
from safetensors.torch import save_file
from same import equal
from torch.nn.functional import nll_loss

from ensemble_transfer import Backbone, EnsembleSettings, Recipe, SettingError, train_source
from ensemble_transfer.weights import below, joined

SMALL_NET = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


@pytest.fixture(scope="module")
def given(backbone, source_task, recipes, fitter):
    def run(*paths, size=None, task=source_task, backbone=backbone, recipes=recipes, **settings):
        settings = EnsembleSettings(size, members=[str(path) for path in paths], **settings)
        return train_source(settings, backbone, task.sealed(), 0, recipes, fitter)

    return run


@pytest.fixture
def saved(source_ensemble, tmp_path):
    source_ensemble.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def file(source_ensemble, tmp_path):
    """A file with timm's names, of member 1."""
    save_file(below(source_ensemble.members[1], "encoder"), tmp_path / "member.safetensors")
    return tmp_path / "member.safetensors"


def loss_of(ensemble, weights, split):
    """Mean cross-entropy of one member on a split."""
    [probabilities] = replace(ensemble, members=(weights,)).predict(split.images)
    return float(nll_loss(probabilities.log(), split.labels))


def test_copies_among_members_that_differ_are_told(given, saved, caplog):
    given(saved)
    assert not caplog.records
    given(saved, saved)
    assert "the 6 given members are 3 encoders: the others are copies of them" in caplog.text


def test_files_of_timm_get_heads_probed_on_the_source(given, source_ensemble, source_task, recipes, file, tmp_path):
    pickled = tmp_path / "member.pth"
    torch.save(below(source_ensemble.members[0], "encoder"), pickled)
    ensemble, ledger = given(file, pickled, lineage="independent", recipes=replace(recipes, head=Recipe(150, lr=1e-2)))
    for member, original in ((0, 1), (1, 0)):
        encoders = [below(w, "encoder") for w in (ensemble.members[member], source_ensemble.members[original])]
        assert equal(*encoders)
    assert [(entry.phase, entry.member, entry.cost.steps) for entry in ledger.entries] == [
        ("source head", 0, 150),
        ("source head", 1, 150),
    ]
    fresh = source_ensemble.architecture.fresh_head(0)
    for member in ensemble.members:
        untrained = joined(encoder=below(member, "encoder"), head=fresh)
        assert loss_of(ensemble, member, source_task.train) < loss_of(ensemble, untrained, source_task.train)
    assert ensemble.lineage == "independent"


def test_a_saved_ensemble_of_a_run_comes_as_it_was(given, source_ensemble, tmp_path):
    replace(source_ensemble, lineage="snapshot").save(tmp_path / "run" / "ensemble")
    ensemble, ledger = given(tmp_path / "run", size=3)
    assert ensemble.fingerprint == source_ensemble.fingerprint
    assert ledger.entries == []
    assert ensemble.lineage == "snapshot"


def test_a_saved_ensemble_of_other_classes_gets_probed_heads(given, source_ensemble, target_task, saved, file):
    ensemble, ledger = given(saved, file, size=4, task=target_task)
    assert ensemble.classes == target_task.classes
    assert [entry.member for entry in ledger.entries] == [0, 1, 2, 3]
    for member, original in enumerate((*source_ensemble.members, source_ensemble.members[1])):
        assert equal(below(ensemble.members[member], "encoder"), below(original, "encoder"))
        assert not equal(below(ensemble.members[member], "head"), below(original, "head"))


def test_given_members_come_first_and_the_others_are_trained(given, source_ensemble, file):
    ensemble, ledger = given(file, size=4, lineage="mixed")
    assert equal(below(ensemble.members[0], "encoder"), below(source_ensemble.members[1], "encoder"))
    for member, alone in zip(ensemble.members[1:], source_ensemble.members, strict=True):
        assert equal(member, alone)  # as without the given one
    assert ensemble.lineage == "mixed"
    assert {(entry.phase, entry.member) for entry in ledger.entries} == {
        ("source head", 0),
        ("ancestor", 1),
        *(("source", member) for member in (1, 2, 3)),
    }
    added, _ = given(size=4, added=[str(file)])  # which come last
    assert added.lineage == "mixed"
    assert all(equal(a, b) for a, b in zip(added.members[:3], source_ensemble.members, strict=True))
    assert equal(below(added.members[3], "encoder"), below(source_ensemble.members[1], "encoder"))


def test_random_members_beside_given_ones_are_refused_unless_asked_for(given, file, saved):
    rule = "is more than the 1 given members, and 7 would be trained from random weights beside them"
    assert refused(rule, given, file, size=8).setting == "ensemble.size"
    assert refused("than the 4 given members, and 1 would", given, saved, file, size=5).value == 5
    with pytest.raises(SettingError, match=r"^lineage='mixed': is for members that are given"):
        EnsembleSettings(2, "mixed")


def test_the_size_is_that_of_the_given_members(saved, file):
    assert EnsembleSettings().count == 8
    assert EnsembleSettings(members=[str(saved), str(file)]).count == 4
    with pytest.raises(SettingError, match=r"^members='nowhere': is no file or folder$"):
        _ = EnsembleSettings(members=["nowhere"]).count


def test_members_beside_given_ones_start_from_pretrained_weights(given, source_ensemble, file, recipes):
    pretrained = Backbone("resnet10t", SMALL_NET, checkpoint=str(file), mean=[0.5], std=[0.5])
    unmoved = replace(recipes, ancestor=Recipe(0), source=Recipe(0))
    ensemble, _ = given(file, size=2, backbone=pretrained, recipes=unmoved)
    assert all(equal(below(m, "encoder"), below(source_ensemble.members[1], "encoder")) for m in ensemble.members)
    assert ensemble.lineage == "copies"  # none has moved


def refused(rule, given, *paths, **settings):
    error = refusal(given, *paths, **settings)
    assert error.setting in ("ensemble.members", "ensemble.size")
    assert rule in error.rule
    return error


def test_what_does_not_fit_is_refused_by_name(given, saved, file, tmp_path):
    wide = Backbone("resnet10t", {"channels": [4, 8, 8, 12], "stem_width": 4, "output_stride": 8})
    assert refused("no file or folder", given, tmp_path / "nowhere").value == str(tmp_path / "nowhere")
    assert refused("gives no weights for resnet10t", given, file, backbone=wide).value == str(file)
    assert refused("another architecture", given, saved, size=3, backbone=wide).value == str(saved)
    assert refused("must be 4 or more, as many as", given, saved, file, size=2).value == 2


# Heads in files


@pytest.fixture
def knowing(given, file, recipes):
    """A member that knows the source's classes well."""
    return given(file, recipes=replace(recipes, head=Recipe(300, lr=1e-2)))[0].members[0]


def as_timm(member, **changes):
    """A member under the names of a timm model with a classifier."""
    head = below(member, "head") | changes
    return below(member, "encoder") | {f"fc.{part}": tensor.contiguous() for part, tensor in head.items()}


def test_a_file_keeps_a_head_that_knows_the_classes(given, source_task, knowing, tmp_path):
    model = timm.create_model("resnet10t", num_classes=5, in_chans=1, **SMALL_NET)
    model.load_state_dict(as_timm(knowing))
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    torch.save({"state_dict": as_timm(knowing)}, tmp_path / "timm.pt")
    save_file(knowing, tmp_path / "member_00.safetensors")
    before = torch.get_rng_state()
    ensemble, ledger = given(tmp_path / "timm.safetensors", tmp_path / "timm.pt", tmp_path / "member_00.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(equal(member, knowing) for member in ensemble.members)
    assert ledger.entries == []
    images = source_task.test.images
    with torch.inference_mode():
        there = model.eval()((images / 255 - 0.5) / 0.5).softmax(-1)
    assert torch.allclose(ensemble.predict(images)[0], there, atol=1e-5)


def test_a_head_that_does_not_fit_is_probed_anew(given, source_task, knowing, caplog, tmp_path):
    weight, bias = knowing["head.weight"], knowing["head.bias"]
    around = [1, 2, 3, 4, 0]  # as many classes, but others: as a head for digits 5 to 9 would be
    heads = {
        "others": {"weight": weight[around], "bias": bias[around]},
        "constant": {
            "weight": 0 * weight,
            "bias": 1.0 * (torch.arange(5) == source_task.validation.labels.mode().values),
        },
        "fewer": {"weight": weight[:4], "bias": bias[:4]},
        "half": {"weight": weight, "bias": torch.zeros(2)},
    }
    for name, head in heads.items():
        save_file(as_timm(knowing, **head), tmp_path / f"{name}.safetensors")
    with caplog.at_level("INFO"):
        ensemble, ledger = given(*(tmp_path / f"{name}.safetensors" for name in heads))
    assert [entry.member for entry in ledger.entries] == [0, 1, 2, 3]
    assert all(equal(below(member, "encoder"), below(knowing, "encoder")) for member in ensemble.members)
    said = [record.getMessage() for record in caplog.records if "its head of" in record.getMessage()]
    assert len(said) == 2
    assert said[0].startswith(f"{tmp_path / 'others.safetensors'}: its head of 5 classes is no better than chance")
    assert said[0].endswith("dataset.image_size, backbone.mean or backbone.std may be others than in training")


def test_the_heads_of_a_saved_ensemble_follow_the_order_of_the_classes(given, source_ensemble, source_task, tmp_path):
    order = [4, 2, 0, 1, 3]
    turned = tuple(
        joined(encoder=below(m, "encoder"), head={part: t[order] for part, t in below(m, "head").items()})
        for m in source_ensemble.members
    )
    names = tuple(source_task.classes[place] for place in order)
    replace(source_ensemble, members=turned, classes=names).save(tmp_path / "turned")
    ensemble, ledger = given(tmp_path / "turned", size=3)
    assert ensemble.fingerprint == source_ensemble.fingerprint
    assert ledger.entries == []


def test_damaged_folders_are_refused_by_name(given, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused("holds no usable ensemble", given, tmp_path / "empty").value == str(tmp_path / "empty")
    member = saved / "member_01.safetensors"
    member.write_bytes(member.read_bytes()[:-50])
    assert "member_01" in str(refused("holds no usable ensemble", given, saved, size=3))
