"""The command line of ``export``: an ensemble as one ONNX file.

Torch is imported once the arguments are known to be usable, so that ``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_transfer.cli.command import command, parser_of, require_writable, some_path
from ensemble_transfer.cli.predict import find_images
from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.inference.export import averaged, export
from ensemble_transfer.inference.saved import ensemble_folder
from ensemble_transfer.runs.files import open_saved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ensemble_transfer.models.architecture import Architecture


NEEDED = ("onnx", "onnxruntime", "onnxscript")

MAX_ONNX_BYTES = 2_000_000_000
"""Most bytes of weights in one file: the limit of protobuf."""

EXAMPLES = 64
"""Largest number of images that an exported file is checked on."""

_DESCRIPTION = "Write an ensemble as one ONNX file, and check it against torch with onnxruntime on real images."

_EPILOG = """\
the file:
  images                (N, channels, size, size) uint8, any N; it normalises them itself
  probabilities         (N, classes) float32, the members' mean, after the temperature
  member_probabilities  (members, N, classes) float32, before it
  metadata              classes (JSON, in the order of the labels), temperature, preprocessing (JSON: the steps
                        from an image file to the input)

exit code: 0; 2 if nothing can be written, or if the file's probabilities differ from torch's by more than 1e-4.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = parser_of("export", _DESCRIPTION, _EPILOG)
    parser.add_argument("run", metavar="RUN", type=some_path, help="folder of a run, or of a saved ensemble")
    parser.add_argument("output", metavar="OUT.onnx", type=some_path, help="where to write")
    parser.add_argument("--soup", action="store_true", help="one network, whose weights are the means of the members'")
    images = f"check on these (the first {EXAMPLES}); else on digits"
    parser.add_argument("--images", nargs="+", metavar="IMAGES", default=[], help=images)
    options = parser.parse_args(arguments)
    ensemble_folder(options.run)
    require_writable(options.output)
    place = options.output.resolve()  # a link is kept, what it leads to is replaced
    ours = place.is_file() and place.suffix == ".onnx"
    require(ours or not place.exists(), "output", str(options.output), "must be an .onnx file, or not there yet")
    missing = [name for name in NEEDED if find_spec(name) is None]
    rule = f"needs {', '.join(missing)}, which are missing: pip install {' '.join(missing)}"
    require(not missing, "output", str(options.output), rule)
    for line in _export(options):
        sys.stdout.write(f"{line}\n")
    return 0


def _export(options: argparse.Namespace) -> list[str]:
    """Export, and return lines that describe the result."""
    saved = open_saved(options.run, device="cpu")
    ensemble, temperature, about = saved.ensemble, saved.temperature, saved.about_temperature()
    if options.soup:
        ensemble, temperature = averaged(ensemble), 1.0
        about = (
            f"one network with the mean weights of {len(saved.ensemble)} members, BatchNorm statistics included; the "
            "ensemble's temperature is not this network's and is left out; evaluate it before you use it"
        )
    size = sum(tensor.nbytes for member in ensemble.members for tensor in member.values())
    rule = "has over 2 GB of weights, more than one ONNX file holds; see --soup"
    require(size < MAX_ONNX_BYTES, "RUN", str(options.run), rule)
    images, where = _images(options.images, ensemble.architecture)
    difference = export(ensemble, temperature, images, options.output.resolve())
    count = f"{len(ensemble)} member{'s' if len(ensemble) > 1 else ''}"
    written = options.output.stat().st_size
    return [
        about,
        f"largest difference from torch on {len(images)} {where}: {difference:.2g}",
        f"written to {options.output}: {count}, {written / 1e6:.1f} MB",
    ]


def _images(given: Sequence[str], architecture: Architecture) -> tuple[Tensor, str]:
    """Return images for the check with their description: some of the given ones, or scikit-learn's digits."""
    size, channels = architecture.image_size, architecture.channels
    if not given:
        from ensemble_transfer.tasks.embedded import Digits

        return Digits().load(size, channels).test.images[:EXAMPLES], "images of digits (--images checks on your own)"
    from ensemble_transfer.tasks.pictures import decoded, files

    reasons: list[str] = []
    paths = list(islice(find_images(given, lambda name, reason: reasons.append(f"{name}: {reason}")), EXAMPLES))
    images, broken = decoded(files([Path(path) for path in paths]), size, channels)
    reasons += [f"{paths[place]}: {reason}" for place, reason in broken.items()]
    if not len(images):
        raise SettingError("images", " ".join(given), f"holds no image that can be read ({'; '.join(reasons[:3])})")
    return images, "of your images"
