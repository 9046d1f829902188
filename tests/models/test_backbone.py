import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from refusals import refusal
from safetensors.torch import save_file
from same import equal

from ensemble_transfer import Architecture, Backbone, SettingError

OPTIONS = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


def architecture(**changes):
    return replace(Architecture("resnet10t", OPTIONS, 8, 1, 5, (0.5,), (0.25,)), **changes)


@pytest.mark.parametrize("draw", [architecture().initial, architecture().fresh_head])
def test_weights_follow_their_seed_and_torchs_global_generator_is_neither_moved_nor_read(draw):
    torch.manual_seed(11)
    before, first = torch.get_rng_state(), draw(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert equal(first, draw(3))
    assert all(not torch.equal(first[name], other) for name, other in draw(4).items() if name.endswith("head.weight"))
    assert not equal(first, draw(4))


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(1, (0.3,), (0.2,)), (3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (3, (0.5,), (0.25,))],
)
def test_images_are_normalised_as_torchvision_does(channels, mean, std):
    described = architecture(channels=channels, mean=mean, std=std)
    classifier = described.build().eval()
    images = torch.randint(256, (4, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 255
    seen = []
    classifier.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    classifier(images)
    scaled = images.numpy().astype(np.float64) / 255
    expected = (scaled - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet10"}, "name='resnet10': must be an architecture that timm knows, such as resnet10t, "),
        ({"image_size": 10**6}, "image_size=1000000: must be 1 to 4096 pixels"),
        ({"options": {"a": {"b": [-(10**9)]}}}, "options.a=1000000000: is too large: its numbers may sum to at most"),
        ({"options": {"a": math.inf}}, "options.a=inf: is too large: its numbers may sum to at most 1000000"),
        ({"channels": 2}, "channels=2: must be 1 or 3"),
        ({"classes": 1}, "classes=1: must be at least 2"),
        ({"mean": (0.1, 0.2)}, "mean=(0.1, 0.2): must have one value, or one per channel"),
        ({"std": (0.0,)}, "std=(0.0,): must be above 0"),
        ({"std": (math.nan,)}, "std=(nan,): must be finite numbers"),
        ({"options": {"checkpoint_path": "x"}}, "options.checkpoint_path='x': is set by the framework; leave it out"),
    ],
)
def test_a_description_that_cannot_be_built_is_refused(changes, message):
    assert str(refusal(architecture, **changes)).startswith(message)


def test_options_are_those_that_a_file_would_hold():
    assert architecture(options={"channels": (4, 8, 8, 8)}) == architecture(options={"channels": [4, 8, 8, 8]})
    with pytest.raises(SettingError, match=r"^options=.*: must be numbers, texts, lists: .*type is not JSON"):
        architecture(options={"act_layer": torch.nn.GELU})


def test_a_checkpoint_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.pt").touch()
    assert Backbone("resnet10t", checkpoint="~/net.pt").checkpoint == str(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 7}, "does not fit timm's resnet10t: assert output_stride in (8, 16, 32); backbone=timm"),
        ({"layers": [400] * 4}, "describes a network of more than 10000 modules, which is the limit"),
        ({"channels": [60_000] * 4}, "describes a network of more than 10000000000 weights, which is the limit"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(options, message):
    said = str(refusal(lambda: architecture(options=options).features))
    assert said.startswith(f"options={options!r}: {message}")


def test_weights_that_do_not_fit_into_memory_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("ensemble_transfer.models.architecture.free_memory", lambda: 10_000)
    with pytest.raises(SettingError, match=r"backbone='resnet10t': needs 0\.0 GiB for its weights, and 0\.0 GiB are"):
        architecture().build()


def test_a_head_is_as_wide_as_an_encoder_ends_whose_maps_are_narrower():
    described = Architecture("mobilenetv3_small_050", {}, 32, 1, 5, (0.5,), (0.5,))
    assert described.build().eval()(torch.zeros(1, 1, 32, 32, dtype=torch.uint8)).shape == (1, 5)


# Backbone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "hf-hub:a/b"}, "name='hf-hub:a/b': must be an architecture that timm knows"),
        ({"checkpoint": "none.pt"}, "checkpoint='none.pt': is not a file"),
        (
            {"pretrained": True, "checkpoint": "none.pt"},
            "checkpoint='none.pt': cannot be combined with pretrained=true",
        ),
    ],
)
def test_a_backbone_that_cannot_be_had_is_refused(settings, message):
    assert str(refusal(Backbone, **settings)).startswith(message)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (1, (0.449,), (0.226,))],
)
def test_pretrained_weights_come_with_their_normalisation(channels, mean, std):
    described = Backbone("resnet10t", OPTIONS, pretrained=True).architecture(8, channels, 5)
    assert described.mean == pytest.approx(mean)
    assert described.std == pytest.approx(std)


# The size of the images


def test_a_vit_takes_the_size_of_the_images_by_itself():
    described = Backbone("test_vit").architecture(32, 3, 5)
    assert described.options == {"img_size": 32}
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert described.build()(images).shape == (2, 5)
    again = Architecture.from_plain(json.loads(json.dumps(described.plain())))
    assert again == described
    assert equal(again.initial(3), described.initial(3))


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        ("test_vit", {}, 160, {}),  # timm's own: keys of older fits stay
        ("test_vit", {"img_size": 64}, 32, {"img_size": 64}),
        ("test_vit", {"dynamic_img_size": True}, 32, {"dynamic_img_size": True}),
        ("test_vit", {"patch_size": 4}, 28, {"patch_size": 4, "img_size": 28}),
        ("resnet10t", {}, 32, {}),
    ],
)
def test_the_size_is_given_where_timm_takes_it_and_nobody_has(name, options, size, expected):
    assert dict(Backbone(name, options).architecture(size, 3, 5).options) == expected


def test_patches_that_leave_pixels_out_are_refused():
    with pytest.raises(SettingError, match=r"^options.patch_size=16: must divide the image size, 28: the pixels"):
        Backbone("vit_tiny_patch16_224").architecture(28, 3, 5)


def test_weights_of_another_size_are_fitted_by_timm(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=7)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = Backbone("test_vit", checkpoint=str(tmp_path / "net.safetensors"))
    described = backbone.architecture(32, 3, 5)
    loaded = backbone.pretrained_parts(described)[0]
    assert loaded["pos_embed"].shape[1] == 1 + (32 // 16) ** 2
    assert torch.equal(loaded["blocks.0.attn.qkv.weight"], net.state_dict()["blocks.0.attn.qkv.weight"])
