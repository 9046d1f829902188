import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import timm
import torch
from refusals import refusal
from same import equal
from torch.nn.functional import linear

from ensemble_transfer import Digits, SettingError
from ensemble_transfer.layout import CALIBRATION, checksum
from ensemble_transfer.models.architecture import Classifier
from ensemble_transfer.models.description import read_description
from ensemble_transfer.models.ensemble import Ensemble, probabilities
from ensemble_transfer.runs.costs import prediction
from ensemble_transfer.weights import copied, fingerprint

OPTIONS = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
IMAGES = Digits().load(8, 1).test.images[:30]


@pytest.fixture(scope="module")
def ensemble(source_ensemble):
    return replace(source_ensemble, classes=tuple("é1234"), history={"source": "digits", "steps": [1, 2]})


@pytest.fixture
def folder(ensemble, tmp_path):
    ensemble.save(tmp_path / "ensemble")
    return tmp_path / "ensemble"


# Predicting


def plain_probabilities(weights, images):
    """The same by timm, a matrix product and NumPy's exponential."""
    encoder = timm.create_model("resnet10t", in_chans=1, num_classes=0, **OPTIONS).eval()
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    with torch.no_grad():
        features = encoder((images / 255 - 0.5) / 0.5)
        logits = linear(features, weights["head.weight"], weights["head.bias"]).double().numpy()
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("batch_size", [256, 7])
def test_predictions_are_every_members_softmax_and_mutate_nothing(ensemble, batch_size):
    before, images = list(map(copied, ensemble.members)), IMAGES.clone()
    probabilities = ensemble.predict(IMAGES, batch_size=batch_size)
    assert probabilities.shape == (3, 30, 5)
    assert probabilities.dtype == torch.float32
    assert probabilities.std(1).max() > 0.01
    expected = [plain_probabilities(weights, IMAGES) for weights in ensemble.members]
    np.testing.assert_allclose(probabilities.numpy(), np.stack(expected), atol=1e-6)
    assert all(map(equal, ensemble.members, before))
    assert torch.equal(IMAGES, images)


def test_members_with_one_encoder_are_predicted_by_one_network(ensemble, monkeypatch):
    first, second, third = ensemble.members
    mixed = {name: (second if name.startswith("head") else first)[name].clone() for name in first}
    four = replace(ensemble, members=(first, third, mixed, first))
    assert four.by_encoder == ((0, 2, 3), (1,))
    alone = [replace(ensemble, members=(weights,)).predict(IMAGES)[0] for weights in four.members]
    encoded = []
    encode = Classifier.encode
    monkeypatch.setattr(Classifier, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    assert torch.equal(four.predict(IMAGES), torch.stack(alone))
    by_network = [probabilities(network, IMAGES) for network in four.networks()]
    assert torch.equal(torch.stack(four.in_order(by_network)), torch.stack(alone))
    assert encoded == 4 * [len(IMAGES)]
    one = prediction(replace(ensemble, members=(first,)))
    assert prediction(four) == {"networks": 2, "flops": 2 * one["flops"] + 2 * 2 * ensemble.architecture.features * 5}


@pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[:, :, :7], IMAGES[0]])
def test_images_of_another_type_or_shape_are_refused(ensemble, images):
    said = f"images has dtype {images.dtype} and shape {tuple(images.shape)}; expected torch.uint8 and (N, 1, 8, 8)"
    with pytest.raises(ValueError, match=re.escape(said)):
        ensemble.predict(images)


# What an ensemble is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, "tensor 'head.bias' is missing from member 1"),
        ({"head.more": torch.zeros(1)}, "tensor 'head.more' is unknown in member 1"),
        (
            {"head.bias": torch.zeros(9)},
            "tensor 'head.bias' of member 1 has shape (9,) and dtype torch.float32; the architecture says (5,) and",
        ),
    ],
)
def test_a_member_that_does_not_fit_is_refused_by_the_tensors_name(ensemble, change, message):
    right = ensemble.members[0]
    wrong = {name: tensor for name, tensor in (dict(right) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(ensemble, members=(right, wrong))


def test_an_ensemble_has_members_and_a_name_for_every_output(ensemble):
    with pytest.raises(ValueError, match=re.escape("members=(): an ensemble has at least one")):
        replace(ensemble, members=())
    with pytest.raises(ValueError, match="classes has 2 names for 5 outputs"):
        replace(ensemble, classes=("a", "b"))


def test_the_fingerprint_follows_members_and_their_order(ensemble):
    one, two, three = ensemble.members
    others = [replace(ensemble, members=members) for members in ((two, one, three), (one, two), (one,))]
    assert replace(ensemble, lineage="independent").fingerprint == ensemble.fingerprint
    assert len({ensemble.fingerprint, *(other.fingerprint for other in others)}) == 4


# On disk


def test_saved_and_loaded_it_is_the_same_bit_by_bit(ensemble, folder):
    loaded = Ensemble.load(folder)
    assert len(loaded) == 3
    assert all(map(equal, loaded.members, ensemble.members))
    for field in ("architecture", "classes", "lineage", "history", "fingerprint"):
        assert getattr(loaded, field) == getattr(ensemble, field)
    assert torch.equal(loaded.predict(IMAGES), ensemble.predict(IMAGES))


def test_the_folder_holds_what_the_contract_says(ensemble, folder):
    (folder / CALIBRATION).write_text("of another ensemble")
    ensemble.save(folder)
    files = [f"member_0{index}.safetensors" for index in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == ["ensemble.json", *files]
    described = json.loads((folder / "ensemble.json").read_text())
    named = {"backbone": "resnet10t", "options": OPTIONS, "image_size": 8, "channels": 1, "classes": 5}
    assert described["architecture"] == named | {"mean": [0.5], "std": [0.5]}
    assert described["members"] == [
        {"file": file, "sha256": fingerprint(weights), "image_size": 8}
        for file, weights in zip(files, ensemble.members, strict=True)
    ]


def test_saving_mutates_nothing_and_takes_tensors_that_share_memory(ensemble, tmp_path):
    bias = torch.arange(10.0)
    weights = dict(ensemble.members[0]) | {"head.bias": bias[::2], "encoder.bn1.bias": bias[:8]}
    replace(ensemble, members=(weights,)).save(tmp_path)
    assert bias.tolist() == list(range(10))
    assert Ensemble.load(tmp_path).members[0]["head.bias"].tolist() == list(range(0, 10, 2))


def edited(folder, **changes):
    """Change fields of ensemble.json, and its checksum; a name with two underscores reaches deeper."""
    path = folder / "ensemble.json"
    description = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = description
        for parent in parents:
            node = node[int(parent) if parent.isdigit() else parent]
        node[last] = value
    path.write_text(json.dumps(description | {"checksum": checksum(description)}))


def as_header(folder):
    """Replace a member by a safetensors header that claims more than the eight bytes that there are."""
    text = json.dumps({"head.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}).encode()
    (folder / "member_00.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


def as_pipe(folder):
    (folder / "member_00.safetensors").unlink()
    os.mkfifo(folder / "member_00.safetensors")


def option(**options):
    return {"architecture__options": OPTIONS | options}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, r"format=1: .*ensemble\.json must have format 2"),
        ({"members": []}, "is not a readable ensemble: .*an ensemble has at least one"),
        ({"classes": [["a"]] * 10}, r"classes='.*ensemble\.json': must be a list of names"),
        ({"classes": [*"é1233"]}, r"is not a readable ensemble: classes names '3' 2 times"),
        (
            {"members__0__file": "member_01.safetensors"},
            r"member='.*member_01\.safetensors': does not have the checksum",
        ),
        ({"members__0__file": "../x"}, r"file='\.\./x': must be the name of a file beside ensemble\.json"),
        ({"architecture__std": ["0.5"]}, r"std=\('0\.5',\): must be finite numbers"),
        ({"architecture__mean": [4.5]}, r"mean=\(4\.5,\): must be from 0 to 1"),
        ({"architecture__image_size": 8.0}, r"image_size=8\.0: must be a whole number"),
        ({"architecture__classes": 10**9}, r"classes=1000000000: is more than the \d+ numbers"),
        (option(_target_="os.system", _args_=["ls"]), "options=.*: does not fit timm's resnet10t"),
        (option(stem_width=10**6), r"options\.stem_width=1000000: is more than the \d+ numbers that a member's file"),
        (option(channels=[4, 8, 16, 16]), r"tensor 'encoder\.layer3\..*' is missing from member 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_description_that_is_not_what_it_says_is_refused_by_name(folder, changes, message):
    edited(folder, **changes)
    assert re.search(message, str(refusal(Ensemble.load, folder)))


def test_no_flipped_bit_of_a_description_goes_unnoticed(folder):
    path = folder / "ensemble.json"
    data, right = path.read_bytes(), read_description(path)
    for place, bit in product(range(0, len(data), 3), range(8)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with suppress(SettingError, ValueError, KeyError):
            assert read_description(path) == right, f"bit {bit} of byte {place}"


DAMAGED = {
    "no such folder": (lambda folder: folder.rename(folder.parent / "elsewhere"), r"ensemble\.json': .*No such file"),
    "deep JSON": (lambda folder: (folder / "ensemble.json").write_text("[" * 100_000), "is not a readable ensemble: "),
    "huge": (lambda folder: os.truncate(folder / "ensemble.json", 2**40), "must be a file of at most 16777216 bytes"),
    "larger than its bytes": (as_header, r"member='.*member_00\.safetensors': is not a readable safetensors file: "),
    "pipe": (
        as_pipe,
        r"member='.*member_00\.safetensors': is not a readable safetensors file: it is not a regular file",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_folder_that_is_damaged_is_refused_by_name(folder, case):
    damage, message = DAMAGED[case]
    damage(folder)
    assert re.search(message, str(refusal(Ensemble.load, folder)))


def test_timm_is_not_even_asked_for_what_a_hostile_description_names(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)))
    for changes in (
        option(layers=[10**9, 1, 1, 1]),
        option(checkpoint_path="x"),
        {"architecture__backbone": "hf-hub:x"},
    ):
        edited(folder, **changes)
        refusal(Ensemble.load, folder)
    assert asked == []
