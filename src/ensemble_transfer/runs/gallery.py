"""Which test images a run shows as its errors."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ensemble_transfer.metrics.calibration import apply_temperature, fit_temperature
from ensemble_transfer.metrics.predictive import correctness, ensemble_mean
from ensemble_transfer.report.gallery import Shown, write_errors
from ensemble_transfer.runs.evaluation import Arrays
from ensemble_transfer.tasks.task import Split

SUREST, UNSURE = 40, 20
"""Wrong and right predictions that are shown, at the most."""


def show_errors(folder: Path, title: str, arrays: Arrays, test: Split, classes: Sequence[str]) -> None:
    """Write the surest wrong predictions and the least sure right ones, with their images, into a run's folder.

    Args:
        folder: The folder of the run.
        title: Strategy and task.
        arrays: Predictions of the run, those of test and validation among them.
        test: The target's test images; only those that are shown are read.
        classes: Names of the classes.
    """
    held_out = ensemble_mean(torch.from_numpy(arrays["validation/probabilities"]))
    temperature = fit_temperature(held_out, torch.from_numpy(arrays["validation/labels"]))
    chances = apply_temperature(ensemble_mean(torch.from_numpy(arrays["probabilities"])), temperature)
    right, sure = correctness(chances, test.labels), chances.max(-1).values
    wrong_first = _places(~right, -sure)
    surest = [_shown(test, place, chances[place], classes) for place in wrong_first[:SUREST]]
    unsure = [_shown(test, place, chances[place], classes) for place in _places(right, sure)[:UNSURE]]
    write_errors(folder, title, surest, unsure, len(wrong_first))


def _places(which: Tensor, order: Tensor) -> list[int]:
    """Return the places where a mask is true, in ascending order of some values."""
    places = which.nonzero()[:, 0]
    found: list[int] = places[order[places].argsort(stable=True)].tolist()
    return found


def _shown(test: Split, place: int, chances: Tensor, classes: Sequence[str]) -> Shown:
    image, predicted = test.take(torch.tensor([place])).images[:][0], int(chances.argmax())
    probability, file = float(chances[predicted]), BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG", optimize=True)
    return Shown(file.getvalue(), place, classes[int(test.labels[place])], classes[predicted], probability)
