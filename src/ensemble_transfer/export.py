"""``python -m ensemble_transfer.export RUN OUT.onnx``: an ensemble as one ONNX file, for use without Python.

Torch is imported once the arguments are known to be usable, so that ``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import uuid
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.image_paths import find_images
from ensemble_transfer.saved import ensemble_folder, open_saved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ensemble_transfer.backbone import Architecture
    from ensemble_transfer.ensemble import Ensemble

NEEDED = ("onnx", "onnxruntime", "onnxscript")
OUTPUTS = ("probabilities", "member_probabilities")
TOLERANCE = 1e-4
"""Largest difference from torch's probabilities that an exported file may show."""
LARGEST = 2_000_000_000
"""Bytes of weights in one file at the most: protobuf's limit."""
EXAMPLES = 64
"""Images that an exported file is checked on, at the most."""

_DESCRIPTION = """\
Write an ensemble as one ONNX file, and check it against torch with onnxruntime on real images.
"""

_EPILOG = """\
the file:
  images                (N, channels, size, size) uint8, any N; it normalises them itself
  probabilities         (N, classes) float32, the members' mean, after the temperature
  member_probabilities  (members, N, classes) float32, before it
  metadata              classes (JSON, in the order of the labels), temperature

exit code: 0; 2 if nothing can be written, or if the file's probabilities differ from torch's by more than 1e-4.
"""


def soup(ensemble: Ensemble) -> Ensemble:
    """Return the ensemble of one member whose weights are the means of all (Wortsman 2022).

    The means are taken of every floating-point tensor, BatchNorm's statistics included: those that belong to the mean
    weights would have to be estimated anew on training images.
    """
    from ensemble_transfer.weights import floating, mean

    averaged = mean([floating(member) for member in ensemble.members])
    return replace(ensemble, members=(dict(ensemble.members[0]) | averaged,))


def as_module(ensemble: Ensemble, temperature: float = 1.0) -> nn.Module:
    """Return a module from images (N, channels, size, size), uint8, to the two outputs of the file."""
    import torch

    from ensemble_transfer.metrics.predictive import PROBABILITY_FLOOR

    class Averaged(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(ensemble.classifiers())

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            members = torch.stack([member(images).softmax(-1) for member in self.members])
            mean = members.mean(0)
            if temperature != 1.0:
                mean = (mean.clamp(min=PROBABILITY_FLOOR).log() / temperature).softmax(-1)
            return mean, members

    return Averaged().eval()


def export(ensemble: Ensemble, temperature: float, images: Tensor, path: Path) -> float:
    """Write the file, in one move once it is known to agree with torch.

    Args:
        ensemble: What is exported.
        temperature: Applied to ``probabilities``.
        images: What the file is checked on: (N, channels, size, size) uint8.
        path: Where it goes.

    Returns:
        The largest difference between its probabilities and torch's.

    Raises:
        SettingError: If it is above ``TOLERANCE``; nothing is written.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _write(as_module(ensemble, temperature), ensemble.architecture, beside)
        _describe(beside, {"classes": json.dumps(ensemble.classes), "temperature": repr(temperature)})
        difference = _difference(beside, ensemble, temperature, images)
        rule = f"would not be the same as in torch: probabilities differ by {difference:.2g}"
        require(difference <= TOLERANCE, "output", str(path), rule)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return difference


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what the exporter says of torch's own insides; what it wrote is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write(module: nn.Module, architecture: Architecture, path: Path) -> None:
    import torch

    size = architecture.image_size
    example = torch.zeros(2, architecture.channels, size, size, dtype=torch.uint8)
    try:
        with _silence():
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=["images"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingError("backbone", architecture.backbone, f"cannot be written as ONNX: {reason}") from error


def _describe(path: Path, texts: Mapping[str, str]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(texts))
    onnx.save(model, path)


def _difference(path: Path, ensemble: Ensemble, temperature: float, images: Tensor) -> float:
    """Return how far the file is from torch, over both outputs, for all images together and one alone."""
    import onnxruntime

    from ensemble_transfer.calibration import decide

    members = ensemble.predict(images)
    expected = (decide(members, temperature).probabilities.numpy(), members.numpy())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    together = session.run(list(OUTPUTS), {"images": images.numpy()})
    alone = session.run(list(OUTPUTS), {"images": images[:1].numpy()})
    pairs = [*zip(together, expected, strict=True), (alone[0], expected[0][:1]), (alone[1], expected[1][:, :1])]
    return max(float(abs(found - wanted).max()) for found, wanted in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        for line in _export(options):
            sys.stdout.write(f"{line}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ensemble_transfer.export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run, or of a saved ensemble")
    parser.add_argument("output", metavar="OUT.onnx", type=Path, help="where to write")
    parser.add_argument("--soup", action="store_true", help="one network, whose weights are the means of the members'")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGES",
        default=[],
        help=f"check on these (the first {EXAMPLES}); else on digits",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise a SettingError for arguments that cannot be used."""
    ensemble_folder(options.run)
    output = options.output
    require(
        output.parent.is_dir() and not output.is_dir(), "output", str(output), "must be a file in a folder that exists"
    )
    missing = [name for name in NEEDED if find_spec(name) is None]
    rule = f"needs {', '.join(missing)}, which are missing: pip install 'ensemble-transfer[onnx]'"
    require(not missing, "output", str(output), rule)


def _export(options: argparse.Namespace) -> list[str]:
    """Export, and return the lines that say what was done."""
    saved = open_saved(options.run)
    ensemble, temperature, about = saved.ensemble, saved.temperature, saved.about_temperature()
    if options.soup:
        ensemble, temperature = soup(ensemble), 1.0
        about = (
            f"one network with the mean weights of {len(saved.ensemble)} members, BatchNorm statistics included; the "
            "ensemble's temperature is not this network's and is left out; evaluate it before you use it"
        )
    size = sum(tensor.nbytes for member in ensemble.members for tensor in member.values())
    require(
        size < LARGEST, "RUN", str(options.run), "has over 2 GB of weights, more than one ONNX file holds; see --soup"
    )
    images, where = _images(options.images, ensemble.architecture)
    difference = export(ensemble, temperature, images, options.output)
    count = f"{len(ensemble)} member{'s' if len(ensemble) > 1 else ''}"
    written = options.output.stat().st_size
    return [
        about,
        f"largest difference from torch on {len(images)} {where}: {difference:.2g}",
        f"written to {options.output}: {count}, {written / 1e6:.1f} MB",
    ]


def _images(given: Sequence[str], architecture: Architecture) -> tuple[Tensor, str]:
    """Return images to check on, and what they are: some of those given, or scikit-learn's digits."""
    size, channels = architecture.image_size, architecture.channels
    if not given:
        from ensemble_transfer.tasks.embedded import Digits

        return Digits().load(size, channels).test.images[:EXAMPLES], "images of digits (--images checks on your own)"
    from ensemble_transfer.tasks.pictures import Files, decoded

    reasons: list[str] = []
    paths = list(islice(find_images(given, lambda name, reason: reasons.append(f"{name}: {reason}")), EXAMPLES))
    images, broken = decoded(Files([Path(path) for path in paths], paths), size, channels)
    reasons += [f"{paths[place]}: {reason}" for place, reason in broken.items()]
    if not len(images):
        raise SettingError("images", " ".join(given), f"holds no image that can be read ({'; '.join(reasons[:3])})")
    return images, "of your images"


if __name__ == "__main__":
    sys.exit(main())
