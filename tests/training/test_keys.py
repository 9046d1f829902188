"""A store that version 0.1 (commit 79a07b4) has written serves every fit: keys, places and files are as they were."""

import json
import struct

import pytest
import torch

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe

ARCHITECTURE = Architecture(
    "resnet10t", {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}, 8, 1, 5, (0.5,), (0.5,)
)
DATA = Split(torch.arange(256).to(torch.uint8).reshape(4, 1, 8, 8), torch.arange(4))

PINNED = {
    "whole": ({}, "e163ddd0fa38706424b4cfd0ac9218ce2599cb47b3bf94fc211bcba12d8ab3ad"),
    "head": ({}, "f61bfe6fb6a2574c77907899ff02d638a1d3ee3ab9a5f8c182166eb032bf98fa"),
    "whole, augmented": (
        {"augment": "crop"},
        "ff06be6a08daf0fab7b791424198ffe0e9f7e53faf7ebf7c379def130762e3af",
    ),
    "head, on views": (
        {"augment": "flip", "views": 2},
        "f936de1b8bb31d0a80eca683ea53186d11bfe56d7c8341aeed652dfbc249214f",
    ),
}
"""Whoever changes a key makes every store worthless, and raises store.SCHEMA."""


def key_of(settings, kind, **changes):
    """Return the key of a fit of no steps from weights that are counted, not drawn."""
    weights = {
        name: (torch.arange(tensor.numel()) % 7 / 7).reshape(tensor.shape).to(tensor.dtype)
        for name, tensor in ARCHITECTURE.build().state_dict().items()
    }
    fitter = Fitter(settings)
    fit = fitter.fit_heads if kind.startswith("head") else fitter.fit
    start, recipe = Start(3, weights, seed=2), Recipe(0, lr=0.01, **changes)
    return fit(ARCHITECTURE, [start], DATA, recipe, "any").fitted[0].key


@pytest.mark.parametrize("kind", PINNED)
def test_fits_keep_their_keys(settings, kind):
    changes, key = PINNED[kind]
    assert key_of(settings, kind, **changes) == key


@pytest.mark.parametrize("kind", ["whole", "head"])
def test_no_augmentation_is_the_default(settings, kind):
    assert key_of(settings, kind, augment="none", views=1) == PINNED[kind][1]


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
