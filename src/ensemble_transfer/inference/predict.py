"""Predict classes of images with a transferred ensemble, and choose when it abstains.

Torch is imported when something is computed, so that the command line's ``--help`` answers at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from ensemble_transfer.inference.saved import Saved
    from ensemble_transfer.models.backbone import Classifier

COLUMNS = ("path", "label", "probability", "entropy", "mutual_information", "disagreement", "abstain")
Row = dict[str, Any]
"""A row of the output, by column."""

LEVEL = 0.05
"""Probability with which the promise of ``--risk`` may fail over draws of the validation images."""


def predict_rows(
    saved: Saved, classifiers: Iterable[Classifier], images: Tensor, threshold: float = -math.inf, device: str = "cpu"
) -> Iterator[Row]:
    """Yield what an ensemble says of each image of a batch: the columns after ``path``.

    Args:
        saved: The ensemble and its calibration.
        classifiers: Its members.
        images: (examples, channels, height, width) uint8.
        threshold: Probability below which it abstains.
        device: Where to compute.

    Raises:
        ValueError: If the members give no probabilities, as with weights that are not finite.
    """
    import torch

    from ensemble_transfer.inference.calibration import decide
    from ensemble_transfer.metrics import diversity, predictive
    from ensemble_transfer.metrics.checks import check_probabilities
    from ensemble_transfer.models.ensemble import probabilities

    members = torch.stack([probabilities(classifier, images, device) for classifier in classifiers])
    check_probabilities(members)
    said = decide(members, saved.temperature)
    columns = (
        [saved.ensemble.classes[label] for label in said.label.tolist()],
        said.confidence.tolist(),
        predictive.entropy(said.probabilities).tolist(),
        diversity.mutual_information(members).tolist(),
        (predictive.predicted_class(members) != said.label).double().mean(0).tolist(),
        (said.confidence < threshold).tolist(),
    )
    for values in zip(*columns, strict=True):
        yield dict(zip(COLUMNS[1:], values, strict=True))


def choose_threshold(saved: Saved, risk: float | None, coverage: float | None) -> tuple[float, str]:
    """Choose a threshold on the validation predictions, and say what it did there.

    Args:
        saved: The ensemble and its calibration.
        risk: Share of errors among the answered that is allowed; or None.
        coverage: Share of the images that is answered; or None. Without either, everything is answered.

    Returns:
        The threshold of the probability (infinity where none keeps the risk), and a line about it.

    Raises:
        SettingError: If there are no validation predictions to choose on.
    """
    from ensemble_transfer.metrics.selective import threshold_at_coverage, threshold_at_risk

    known, setting, wanted = (
        saved.calibration,
        "coverage" if risk is None else "risk",
        coverage if risk is None else risk,
    )
    if wanted is None:
        return -math.inf, ""
    if known is None:
        rule = (
            "needs validation predictions (predictions.npz of the run, or calibration.safetensors beside the ensemble)"
        )
        raise SettingError(setting, wanted, rule)
    choose = threshold_at_coverage if risk is None else threshold_at_risk
    found = choose(known.confidence, known.correct, wanted)
    if found is None:
        examples = len(known.correct)
        return (
            math.inf,
            f"no threshold keeps risk {risk:g} with 95% confidence on {examples} validation images: abstains on all",
        )
    line = (
        f"answers where the probability is at least {found.value:.6f}; on {found.examples} validation images that is "
        f"coverage {found.coverage:.3f}, risk {found.risk:.4f} ({found.errors} wrong of {found.answered})"
    )
    bound = "" if found.bound is None else f", below {found.bound:.4f} with 95% confidence"
    return found.value, f"{line}{bound}: an estimate, for images like those"
