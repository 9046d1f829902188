"""A store serves every fit that was written under the same schema: keys, places and files are as they were."""

import json
import struct
from dataclasses import replace

import pytest
import torch

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.trained_part import HeadOnFeatures, WholeMember

ARCHITECTURE = Architecture(
    "resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}, 8, 1, 5, (0.5,), (0.5,)
)
DATA = Split(torch.arange(256).to(torch.uint8).reshape(4, 1, 8, 8), torch.arange(4))

PINNED = {
    "whole": ({}, "365a55cd1edf81c14c793610c9fd7826aaa1234549ae2da25cbbd14194529617"),
    "head": ({}, "62dfd0cd2053990e5919ddc4bc3f5a74c1f93e6e21f3a813b6e00059ffa1ffe5"),
    "whole, augmented": (
        {"augment": "crop"},
        "6a8e6e7052c3f4e55fe6d35fea3f2b538afd8f667a06732a1ed5bf0787dba102",
    ),
    "head, on views": (
        {"augment": "flip", "views": 2},
        "5b8fcfeea97b054fa1a1e01577503bde1355a12f0e7b70c800aefe5c436e474f",
    ),
}
"""Whoever changes a key makes every store worthless, and raises store.SCHEMA."""


def key_of(settings, kind, **changes):
    """Return the key of a fit from weights that are counted, not drawn."""
    weights = {
        name: (torch.arange(tensor.numel()) % 7 / 7).reshape(tensor.shape).to(tensor.dtype)
        for name, tensor in ARCHITECTURE.build().state_dict().items()
    }
    part = (HeadOnFeatures if kind.startswith("head") else WholeMember)(ARCHITECTURE)
    return FitSpec(part, DATA, Recipe(1, lr=0.01, **changes), "any").key(Start(3, weights, seed=2), settings)


@pytest.mark.parametrize("kind", PINNED)
def test_fits_keep_their_keys(settings, kind, monkeypatch):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    changes, key = PINNED[kind]
    assert key_of(settings, kind, **changes) == key


@pytest.mark.parametrize("kind", ["whole", "head"])
def test_no_augmentation_is_the_default(settings, kind, monkeypatch):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    assert key_of(settings, kind, augment="none", views=1) == PINNED[kind][1]


@pytest.mark.parametrize("pays", [True, False])
def test_the_layout_is_part_of_a_key_and_null_is_what_it_means_here(settings, monkeypatch, pays):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: pays)

    def key(kind="whole", **changes):
        return key_of(replace(settings, **changes), kind)

    assert key(channels_last=True) != key(channels_last=False)
    assert key() == key(channels_last=pays)
    assert key(executor="vectorised", channels_last=True) == key(channels_last=False)
    assert key("head") == key("head", channels_last=not pays)  # features have the layout of the device
    assert key(precision="bf16-mixed") != key()
    assert key("head", precision="bf16-mixed") == key("head")  # heads are trained in float32
    assert key(threads=3, workers=2, group_size=1, checkpoint_seconds=1.0) == key()


def test_a_file_of_version_0_1_is_read(store):
    about = {
        "cost": {
            "cpu_seconds": 0.5,
            "examples": 640,
            "flops": 10000000000000,
            "peak_memory_bytes": 2147483648,
            "seconds": 1.25,
            "steps": 20,
            "trained_parameters": 4522,
        },
        "phase": "tiny",
    }
    checksum = "a24a20a38654dd4753492b48f52b44c5597cf17aeef77739ca7cb1b99d22ee3f"
    header = {
        "__metadata__": {"about": json.dumps(about), "checksum": checksum},
        "curve": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "weights.encoder.w": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
        "weights.head.b": {"dtype": "F32", "shape": [0, 3], "data_offsets": [24, 24]},
    }
    text = json.dumps(header)
    curve, weights = [[0.0, 2.5], [10.0, 0.25]], [1.5, -2.0]
    key = "ab" + "0" * 62
    path = store.root / "fits" / "ab" / f"{key}.safetensors"
    path.parent.mkdir()
    numbers = struct.pack("<6f", *curve[0], *curve[1], *weights)
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + numbers)
    found = store.get(key)
    assert found.weights["encoder.w"].tolist() == weights
    assert found.weights["head.b"].shape == (0, 3)
    assert found.curve.tolist() == curve
    assert found.cost == Cost(20, 640, 10**13, 1.25, 0.5, 2**31, 4522)
