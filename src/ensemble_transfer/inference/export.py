"""Write an ensemble as one ONNX file, for use without Python, and check it against torch.

Torch is imported when something is computed, so that the command line's ``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError, one_line, require
from ensemble_transfer.layout import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.onnx import ONNXProgram

    from ensemble_transfer.models.architecture import Architecture
    from ensemble_transfer.models.ensemble import Ensemble

OUTPUTS = ("probabilities", "member_probabilities")
TOLERANCE = 1e-4
"""Largest difference between the probabilities of an exported file and of torch."""


def preprocessing(architecture: Architecture, sizes: Sequence[int] = ()) -> dict[str, Any]:
    """Return the steps from an image file to the input, in their order, as plain data.

    :func:`ensemble_transfer.tasks.images.fit` takes these steps. The members take those after the layout themselves.

    Args:
        architecture: What the members have in common.
        sizes: The members' own image sizes, in pixels; empty where all have that of the architecture.
    """
    gray = architecture.channels == 1
    own = ", ".join(map(str, sizes))
    scaling = {"scaling": f"each member to its own size, by the model itself: {own} pixels"} if sizes else {}
    return {
        "orientation": "turned upright by the EXIF tag",
        "depth": "8 bits: of 16 bits, the upper 8",
        "alpha": "composited onto white",
        "crop": "largest centred square",
        "resize": f"{architecture.image_size}x{architecture.image_size}, bilinear with antialiasing",
        "color": "gray, ITU-R 601-2 luma: (19595 R + 38470 G + 7471 B + 32768) >> 16" if gray else "RGB",
        "layout": f"uint8 (N, {architecture.channels}, {architecture.image_size}, {architecture.image_size})",
        **scaling,
        "mean": list(architecture.mean),
        "std": list(architecture.std),
        "normalisation": "(x / 255 - mean) / std, done by the model itself",
    }


def averaged(ensemble: Ensemble) -> Ensemble:
    """Return an ensemble of one member, whose weights are the means over all members (Wortsman et al. 2022).

    Every floating-point tensor is averaged, BatchNorm's statistics included. The soup of a run's record is another
    network: its statistics are estimated from training images, which are not here.

    Raises:
        SettingError: If the members have several image sizes: weights of one suit no other.
    """
    from ensemble_transfer.weights import floating, mean

    sizes = {*ensemble.image_sizes}
    require(len(sizes) == 1, "soup", True, f"needs members of one image size; these have {sorted(sizes)}")
    means = mean([floating(member) for member in ensemble.members])
    return replace(ensemble, members=(dict(ensemble.members[0]) | means,), sizes=ensemble.sizes[:1])


def as_module(ensemble: Ensemble, temperature: float = 1.0) -> nn.Module:
    """Return a module that maps images (N, channels, size, size), uint8, to the two outputs of the file."""
    import torch

    from ensemble_transfer.metrics.predictive import PROBABILITY_FLOOR

    class Averaged(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks = torch.nn.ModuleList(ensemble.networks())

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            members = torch.stack(ensemble.in_order([network(images).softmax(-1) for network in self.networks]))
            mean = members.mean(0)
            if temperature != 1.0:
                mean = (mean.clamp(min=PROBABILITY_FLOOR).log() / temperature).softmax(-1)
            return mean, members

    return Averaged().eval()


def export(ensemble: Ensemble, temperature: float, images: Tensor, path: Path) -> float:
    """Write an ONNX file, after checking that its probabilities are those of torch.

    Args:
        ensemble: The ensemble.
        temperature: Temperature of the output ``probabilities``.
        images: Images for the check: (N, channels, size, size) uint8.
        path: Path of the file.

    Raises:
        SettingError: If the largest difference, which is returned, is above ``TOLERANCE``; nothing is written.
    """
    program = _program(as_module(ensemble, temperature), ensemble.architecture)
    program.model.metadata_props.update(
        classes=json.dumps(ensemble.classes),
        temperature=repr(temperature),
        preprocessing=json.dumps(preprocessing(ensemble.architecture, ensemble.sizes)),
    )
    with replacing(path) as beside:
        program.save(beside, external_data=False)
        difference = _difference(beside, ensemble, temperature, images)
        rule = f"would not be the same as in torch: probabilities differ by {difference:.2g}"
        require(difference <= TOLERANCE, "output", str(path), rule)
    return difference


def _program(module: nn.Module, architecture: Architecture) -> ONNXProgram:
    """Return the network in ONNX; the exporter's warnings about torch itself are suppressed: its output is checked."""
    import torch

    size, before = architecture.image_size, logging.root.manager.disable
    example = torch.zeros(2, architecture.channels, size, size, dtype=torch.uint8)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(category=Warning, action="ignore"):
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["images"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        rule = f"cannot be written as ONNX: {one_line(error)}"
        raise SettingError("backbone", architecture.backbone, rule) from error
    finally:
        logging.disable(before)
    assert program is not None
    return program


def _difference(path: Path, ensemble: Ensemble, temperature: float, images: Tensor) -> float:
    """Return the largest difference from torch, over both outputs, for all images together and for one alone."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it reports to its maker, and leaves a session file
    import onnxruntime

    from ensemble_transfer.inference.calibration import decide

    members = ensemble.predict(images)
    expected = (decide(members, temperature).probabilities.numpy(), members.numpy())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    together = session.run(list(OUTPUTS), {"images": images.numpy()})
    alone = session.run(list(OUTPUTS), {"images": images[:1].numpy()})
    pairs = [*zip(together, expected, strict=True), (alone[0], expected[0][:1]), (alone[1], expected[1][:, :1])]
    return max(float(abs(found - wanted).max()) for found, wanted in pairs)
