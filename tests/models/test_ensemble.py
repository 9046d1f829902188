import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

from ensemble_transfer.errors import SettingError
from ensemble_transfer.inference.saved import SavedEnsemble
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.ensemble import CALIBRATION, Ensemble
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.weights import copied, fingerprint

OPTIONS = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}
ARCHITECTURE = Backbone("resnet10t", OPTIONS, mean=[0.3], std=[0.2]).architecture(8, 1, 10)
IMAGES = Digits().load(8, 1).test.images[:30]


def member(seed):
    """Weights as after some training: other statistics, and residual branches, which timm starts at zero."""
    weights, generator = ARCHITECTURE.initial(seed), torch.Generator().manual_seed(seed)
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise / 4 if name.endswith(("mean", "bias")) else noise + 0.2)
    return weights


@pytest.fixture(scope="module")
def ensemble():
    members = tuple(member(seed) for seed in range(3))
    history = {"source": "digits", "steps": [1, 2]}
    return Ensemble(ARCHITECTURE, members, tuple("é123456789"), "shared", history)


@pytest.fixture
def folder(ensemble, tmp_path):
    ensemble.save(tmp_path / "ensemble")
    return tmp_path / "ensemble"


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


# Predicting


def plain_probabilities(weights, images):
    """The same by timm, a matrix product and NumPy's exponential."""
    encoder = timm.create_model("resnet10t", in_chans=1, num_classes=0, **OPTIONS).eval()
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    with torch.no_grad():
        features = encoder((images / 255 - 0.3) / 0.2)
        logits = linear(features, weights["head.weight"], weights["head.bias"]).double().numpy()
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("batch_size", [256, 7, 1])
def test_predictions_are_every_members_softmax(ensemble, batch_size):
    probabilities = ensemble.predict(IMAGES, batch_size=batch_size)
    assert probabilities.shape == (3, 30, 10)
    assert probabilities.dtype == torch.float32
    assert probabilities.std(1).max() > 0.01
    expected = [plain_probabilities(weights, IMAGES) for weights in ensemble.members]
    np.testing.assert_allclose(probabilities.numpy(), np.stack(expected), atol=1e-6)


def test_an_ensemble_is_shown_in_a_line(ensemble):
    shown = r"Ensemble\(3 members of resnet10t, [\d,]+ weights each, images 1x8x8, 10 classes, lineage 'shared'\)"
    assert re.fullmatch(shown, repr(ensemble))
    assert len(repr(SavedEnsemble(Path("run"), ensemble, None))) < 300


def test_predicting_mutates_neither_members_nor_images(ensemble):
    members, images = [copied(weights) for weights in ensemble.members], IMAGES.clone()
    ensemble.predict(IMAGES)
    assert all(equal(now, before) for now, before in zip(ensemble.members, members, strict=True))
    assert torch.equal(IMAGES, images)


def test_a_classifier_is_a_copy_in_evaluation_mode(ensemble):
    classifier = ensemble.classifier(1)
    assert not any(module.training for module in classifier.modules())
    before = copied(ensemble.members[1])
    with torch.no_grad():
        for tensor in classifier.state_dict().values():
            tensor.fill_(1)
    assert equal(ensemble.members[1], before)


def test_classifiers_come_in_order(ensemble):
    for classifier, weights in zip(ensemble.classifiers(), ensemble.members, strict=True):
        assert equal(classifier.state_dict(), weights)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.float(),
        IMAGES.long(),
        IMAGES[:, :, :7],
        IMAGES.expand(-1, 3, -1, -1),
        IMAGES[0],
        IMAGES[:, 0],
        IMAGES[None],
    ],
)
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
            "tensor 'head.bias' of member 1 has shape (9,) and dtype torch.float32; the architecture says (10,) and",
        ),
        (
            {"head.bias": torch.zeros(10).half()},
            "tensor 'head.bias' of member 1 has shape (10,) and dtype torch.float16; the architecture says (10,) and",
        ),
        (
            {"encoder.bn1.num_batches_tracked": torch.tensor(1.0)},
            "tensor 'encoder.bn1.num_batches_tracked' of member 1 has shape () and dtype torch.float32; the",
        ),
    ],
)
def test_a_member_that_does_not_fit_is_refused_by_the_tensors_name(ensemble, change, message):
    wrong = {name: tensor for name, tensor in (member(1) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(ensemble, members=(member(0), wrong))


def test_an_ensemble_has_members_and_a_name_for_every_output(ensemble):
    with pytest.raises(ValueError, match=re.escape("members=(): an ensemble has at least one")):
        replace(ensemble, members=())
    with pytest.raises(ValueError, match="classes has 2 names for 10 outputs"):
        replace(ensemble, classes=("a", "b"))


def test_the_fingerprint_follows_members_and_their_order(ensemble):
    again = replace(ensemble, members=tuple(member(seed) for seed in range(3)), lineage="independent")
    others = [replace(ensemble, members=tuple(member(seed) for seed in seeds)) for seeds in ([1, 0, 2], [0, 1], [0])]
    assert again.fingerprint == ensemble.fingerprint
    assert len({ensemble.fingerprint, *(other.fingerprint for other in others)}) == 4


# On disk


def test_saved_and_loaded_it_is_the_same_bit_by_bit(ensemble, folder):
    loaded = Ensemble.load(folder)
    assert len(loaded) == 3
    for before, after in zip(ensemble.members, loaded.members, strict=True):
        assert before.keys() == after.keys()
        assert equal(before, {name: after[name] for name in before})
    for field in ("architecture", "classes", "lineage", "history", "fingerprint"):
        assert getattr(loaded, field) == getattr(ensemble, field)
    assert torch.equal(loaded.predict(IMAGES), ensemble.predict(IMAGES))


def test_the_folder_holds_what_the_contract_says(ensemble, folder):
    files = [f"member_0{index}.safetensors" for index in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == ["ensemble.json", *files]
    described = json.loads((folder / "ensemble.json").read_text())
    assert described["architecture"] == {
        "backbone": "resnet10t",
        "options": OPTIONS,
        "image_size": 8,
        "channels": 1,
        "classes": 10,
        "mean": [0.3],
        "std": [0.2],
    }
    assert described["members"] == [
        {"file": file, "sha256": fingerprint(weights)} for file, weights in zip(files, ensemble.members, strict=True)
    ]


def test_saving_mutates_nothing_and_takes_tensors_that_share_memory(ensemble, tmp_path):
    weights, bias = member(0), torch.arange(20.0)
    weights |= {"head.bias": bias[::2], "encoder.bn1.bias": bias[:8]}
    replace(ensemble, members=(weights,)).save(tmp_path)
    assert bias.tolist() == list(range(20))
    assert Ensemble.load(tmp_path).members[0]["head.bias"].tolist() == list(range(0, 20, 2))


def test_a_smaller_ensemble_saved_over_a_larger_one_is_the_smaller_one(ensemble, folder):
    smaller = replace(ensemble, members=ensemble.members[1:2])
    smaller.save(folder)
    assert Ensemble.load(folder).fingerprint == smaller.fingerprint


def test_saving_removes_the_calibration_of_what_was_there_before(ensemble, folder):
    (folder / CALIBRATION).write_text("of another ensemble")
    ensemble.save(folder)
    assert not (folder / CALIBRATION).exists()


def edited(folder, **changes):
    """Change fields of ensemble.json; a dotted name reaches deeper, and None removes."""
    path = folder / "ensemble.json"
    description = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = description
        for parent in parents:
            node = node[int(parent) if parent.isdigit() else parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path.write_text(json.dumps(description))


def resaved(folder, **tensors):
    """Change tensors of the first member, and state the new checksum."""
    path = folder / "member_00.safetensors"
    weights = {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(weights, path)
    edited(folder, members__0__sha256=fingerprint(weights))


def flip_the_last_byte(folder):
    path = folder / "member_01.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def as_header(folder, header, length=None):
    """Replace a member by a safetensors header that states what it likes, and eight bytes."""
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    (folder / "member_00.safetensors").write_bytes(size.to_bytes(8, "little") + text + bytes(8))


def floats(shape, end):
    return {"head.bias": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


def as_pipe(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)


def as_link(folder, name, target):
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def cut(folder):
    path = folder / "member_01.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


REFUSED = {
    "no such folder": (
        lambda folder: folder.rename(folder.parent / "elsewhere"),
        r"ensemble='.*ensemble\.json': is not a readable ensemble: .*No such file",
    ),
    "no JSON": (lambda folder: (folder / "ensemble.json").write_text("{"), "is not a readable ensemble: "),
    "no object": (lambda folder: (folder / "ensemble.json").write_text("[1]"), "is not a readable ensemble: "),
    "deep JSON": (
        lambda folder: (folder / "ensemble.json").write_text("[" * 100_000),
        "is not a readable ensemble: ",
    ),
    "no bytes of text": (
        lambda folder: (folder / "ensemble.json").write_bytes(b"\xff\xfe\x80"),
        "is not a readable ensemble: ",
    ),
    "another format": (lambda folder: edited(folder, format=2), r"format=2: .*ensemble\.json must have format 1"),
    "no format": (lambda folder: edited(folder, format=None), "is not a readable ensemble: 'format'"),
    "no architecture": (
        lambda folder: edited(folder, architecture=None),
        "is not a readable ensemble: 'architecture'",
    ),
    "no members": (
        lambda folder: edited(folder, members=[]),
        "is not a readable ensemble: .*an ensemble has at least one",
    ),
    "a missing class": (
        lambda folder: edited(folder, classes=["a"]),
        "is not a readable ensemble: classes has 1 names for 10",
    ),
    "missing file": (
        lambda folder: (folder / "member_01.safetensors").unlink(),
        r"member='.*member_01\.safetensors': is not a readable safetensors file: ",
    ),
    "truncated file": (cut, r"member='.*member_01\.safetensors': is not a readable safetensors file: "),
    "flipped byte": (
        flip_the_last_byte,
        r"member='.*member_01\.safetensors': does not have the checksum that ensemble\.json states",
    ),
    "members swapped": (
        lambda folder: edited(folder, members__0__file="member_01.safetensors"),
        r"member='.*member_01\.safetensors': does not have the checksum",
    ),
    "missing tensor": (
        lambda folder: resaved(folder, **{"head.bias": None}),
        "tensor 'head.bias' is missing from member 0",
    ),
    "unknown tensor": (
        lambda folder: resaved(folder, more=torch.zeros(1)),
        "tensor 'more' is unknown in member 0",
    ),
    "wrong shape": (
        lambda folder: resaved(folder, **{"head.bias": torch.zeros(9)}),
        r"tensor 'head\.bias' of member 0 has shape \(9,\)",
    ),
    "parent folder": (
        lambda folder: edited(folder, members__0__file="../x"),
        r"file='\.\./x': must be the name of a file beside ensemble\.json",
    ),
    "absolute path": (
        lambda folder: edited(folder, members__0__file="/etc/passwd"),
        "file='/etc/passwd': must be the name of a file beside",
    ),
    "subfolder": (
        lambda folder: edited(folder, members__0__file="a/../member_00.safetensors"),
        "file='a/.*': must be the name of a file beside",
    ),
    "folder": (lambda folder: edited(folder, members__0__file=".."), "member='.*': is not a readable safetensors file"),
    "no name": (lambda folder: edited(folder, members__0__file=7), "is not a readable ensemble: "),
    "unknown option of a member": (
        lambda folder: edited(folder, members__0__code="x"),
        "is not a readable ensemble: .*unexpected keyword argument 'code'",
    ),
    "hub": (
        lambda folder: edited(folder, architecture__backbone="hf-hub:evil/net"),
        "name='hf-hub:evil/net': must be an architecture that timm knows",
    ),
    "local folder": (
        lambda folder: edited(folder, architecture__backbone=f"local-dir:{folder}"),
        "name='local-dir:.*': must be an architecture that timm knows",
    ),
    "no architecture's name": (
        lambda folder: edited(folder, architecture__backbone=["resnet10t"]),
        "is not a readable ensemble: ",
    ),
    "checkpoint": (
        lambda folder: edited(folder, architecture__options={"checkpoint_path": "evil.pt"}),
        r"options\.checkpoint_path='evil\.pt': is set by the framework",
    ),
    "pretrained": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"pretrained": True}),
        r"options\.pretrained=True: is set by the framework",
    ),
    "overlay": (
        lambda folder: edited(folder, architecture__options={"pretrained_cfg_overlay": {"file": "evil.pt"}}),
        r"options\.pretrained_cfg_overlay=.*: is set by the framework",
    ),
    "other network": (
        lambda folder: edited(folder, architecture__options={"features_only": True}),
        r"options\.features_only=True: is set by the framework",
    ),
    "an object to build": (
        lambda folder: edited(folder, architecture={"_target_": "os.system", "command": "touch executed"}),
        "is not a readable ensemble: ",
    ),
    "an object to build among the fields": (
        lambda folder: edited(folder, architecture___target_="os.system"),
        "is not a readable ensemble: .*unexpected keyword argument '_target_'",
    ),
    "an object to build among the options": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"_target_": "os.system", "_args_": ["ls"]}),
        "options=.*: does not fit timm's resnet10t",
    ),
    "an object to build among the layers": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"norm_layer": {"_target_": "os.system"}}),
        "is not a readable ensemble: |does not fit timm's",
    ),
    "code among the layers": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"act_layer": "__import__('os').system('ls')"}),
        "is not a readable ensemble: |does not fit timm's",
    ),
    "another name for timm": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"model_name": "hf-hub:evil/net"}),
        "options=.*: does not fit timm's resnet10t: .*multiple values",
    ),
    "cache": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"cache_dir": "/tmp/evil"}),
        "options.cache_dir='/tmp/evil': is set by the framework",
    ),
    "address of weights": (
        lambda folder: edited(folder, architecture__options={"pretrained_cfg": {"url": "http://127.0.0.1:9/evil.pth"}}),
        r"options\.pretrained_cfg=.*: is set by the framework",
    ),
    "more layers than weights": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"layers": [1, 1, 1, 10**9]}),
        r"options\.layers=1000000003: is too large: its numbers may sum to at most 1000000",
    ),
    "more width than weights": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"stem_width": -(10**30)}),
        r"options\.stem_width=10+: is too large: its numbers may sum to at most 1000000",
    ),
    "more width than the file's weights": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"stem_width": 10**6}),
        r"options\.stem_width=1000000: is more than the \d+ numbers that a member's file holds",
    ),
    "more classes than weights": (
        lambda folder: edited(folder, architecture__classes=10**9),
        r"classes=1000000000: is more than the \d+ numbers",
    ),
    "more layers than a network has": (
        lambda folder: edited(folder, architecture__options={"layers": [400, 400, 400, 400]}),
        "options=.*: describes a network of more than 10000 modules, which is the limit",
    ),
    "more numbers than an option has": (
        lambda folder: edited(folder, architecture__options={"layers": [400] * 10_000}),
        r"options\.layers=4000000: is too large: its numbers may sum to at most 1000000",
    ),
    "a boolean for a size": (
        lambda folder: edited(folder, architecture__image_size=True),
        "image_size=True: must be a whole number",
    ),
    "a boolean for the channels": (
        lambda folder: edited(folder, architecture__channels=True),
        "channels=True: must be a whole number",
    ),
    "a boolean for the classes": (
        lambda folder: edited(folder, architecture__classes=True),
        "classes=True: must be a whole number",
    ),
    "a fraction for a size": (
        lambda folder: edited(folder, architecture__image_size=8.5),
        r"image_size=8\.5: must be a whole number",
    ),
    "a boolean for the mean": (
        lambda folder: edited(folder, architecture__mean=[True]),
        r"mean=\(True,\): must be finite numbers",
    ),
    "a text for the deviation": (
        lambda folder: edited(folder, architecture__std=["0.5"]),
        r"std=\('0\.5',\): must be finite numbers",
    ),
    "a boolean for the format": (lambda folder: edited(folder, format=True), "format=True: .* must have format 1"),
    "huge images": (
        lambda folder: edited(folder, architecture__image_size=10**6),
        "image_size=1000000: must be 1 to 4096 pixels",
    ),
    "a header larger than the file": (
        lambda folder: as_header(folder, {}, length=2**62),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: ",
    ),
    "a tensor larger than the file": (
        lambda folder: as_header(folder, floats([2**40], 2**42)),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: ",
    ),
    "a shape that overflows": (
        lambda folder: as_header(folder, floats([2**62, 2**62], 8)),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: ",
    ),
    "a shape larger than its bytes": (
        lambda folder: as_header(folder, floats([2**40], 8)),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: ",
    ),
    "a pipe for a member": (
        lambda folder: as_pipe(folder, "member_00.safetensors"),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: it is not a regular file",
    ),
    "a device for a member": (
        lambda folder: as_link(folder, "member_00.safetensors", "/dev/zero"),
        r"member='.*member_00\.safetensors': is not a readable safetensors file: it is not a regular file",
    ),
    "a pipe for the description": (
        lambda folder: as_pipe(folder, "ensemble.json"),
        r"ensemble='.*ensemble\.json': must be a file of at most 16777216 bytes",
    ),
    "a device for the description": (
        lambda folder: as_link(folder, "ensemble.json", "/dev/zero"),
        r"ensemble='.*ensemble\.json': must be a file of at most 16777216 bytes",
    ),
    "a huge description": (
        lambda folder: os.truncate(folder / "ensemble.json", 2**40),
        r"ensemble='.*ensemble\.json': must be a file of at most 16777216 bytes",
    ),
    "classes that are no names": (
        lambda folder: edited(folder, classes=[["a"]] * 10),
        r"classes='.*ensemble\.json': must be a list of names",
    ),
    "a history that is none": (
        lambda folder: edited(folder, history=["x"]),
        r"history='.*ensemble\.json': must be an object",
    ),
    "a lineage that is none": (
        lambda folder: edited(folder, lineage=3),
        "lineage=3: .* must have a word",
    ),
    "nonsense": (
        lambda folder: edited(folder, architecture__options={"block": "x"}),
        "options={'block': 'x'}: does not fit timm's resnet10t",
    ),
    "negative width": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"channels": [-4, 8, 8, 8]}),
        "options=.*: does not fit timm's resnet10t: Trying to create tensor with negative dimension -4",
    ),
    "options of no kind": (lambda folder: edited(folder, architecture__options=3), "is not a readable ensemble: "),
    "other widths": (
        lambda folder: edited(folder, architecture__options=OPTIONS | {"channels": [4, 8, 16, 16]}),
        r"tensor 'encoder\.layer3\..*' is missing from member 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_not_what_it_says_is_refused_by_name(folder, case):
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(SettingError, match=message) as caught:
        Ensemble.load(folder)
    assert "\n" not in str(caught.value)


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_in_place_of_a_member_is_not_executed(folder, tmp_path, dump):
    mark = tmp_path / "executed"
    with (folder / "member_00.safetensors").open("wb") as file:
        dump(Hostile(mark), file)
    with pytest.raises(SettingError, match=r"member='.*member_00\.safetensors': is not a readable safetensors file"):
        Ensemble.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture__backbone": "hf-hub:evil/net"},
        {"architecture__backbone": "local-dir:/tmp"},
        {"architecture__options": {"checkpoint_path": "evil.pt"}},
        {"architecture__options": {"pretrained": True}},
        {"architecture__options": {"layers": [10**9, 1, 1, 1]}},
    ],
)
def test_timm_is_not_even_asked_for_what_a_hostile_description_names(folder, monkeypatch, changes):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)))
    edited(folder, **changes)
    with pytest.raises(SettingError):
        Ensemble.load(folder)
    assert asked == []
