"""Predict classes of images with a transferred ensemble, and choose where it abstains.

Torch is imported when something is computed, so that the command line's ``--help`` answers at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ensemble_transfer.inference.saved import SavedEnsemble

COLUMNS = ("path", "label", "probability", "entropy", "mutual_information", "disagreement", "abstain")
Row = dict[str, Any]
"""A row of the output, by column."""


def class_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns of the classes' probabilities."""
    return [f"probability_{name}" for name in classes]


def predict_rows(
    saved: SavedEnsemble, images: Tensor, threshold: float = -math.inf, every_class: bool = False
) -> Iterator[Row]:
    """Yield the predictions for a batch of images: the columns after ``path``.

    Args:
        saved: The ensemble and its calibration.
        images: (examples, channels, height, width) uint8.
        threshold: Abstain where the probability is below this.
        every_class: Whether a column for each class, ``probability_CLASS``, follows.

    Raises:
        ValueError: If the members' outputs are not probabilities, as with weights that are not finite.
    """
    from ensemble_transfer.inference.calibration import decide
    from ensemble_transfer.metrics import diversity, predictive

    members = saved.members(images)
    decisions = decide(members, saved.temperature)
    columns = (
        [saved.classes[label] for label in decisions.label.tolist()],
        decisions.confidence.tolist(),
        predictive.entropy(decisions.probabilities).tolist(),
        diversity.mutual_information(members).tolist(),
        (predictive.predicted_class(members) != decisions.label).double().mean(0).tolist(),
        (decisions.confidence < threshold).tolist(),
        *(decisions.probabilities.T.tolist() if every_class else []),
    )
    names = [*COLUMNS[1:], *(class_columns(saved.classes) if every_class else [])]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def choose_threshold(saved: SavedEnsemble, risk: float | None, coverage: float | None) -> tuple[float, str]:
    """Choose a threshold of the probability on the validation predictions, and describe its result there.

    Args:
        saved: The ensemble and its calibration.
        risk: Allowed share of errors among the answers, or None. Where no threshold keeps it, infinity is returned.
        coverage: Share of the images to answer, or None. Without either, everything is answered.

    Raises:
        SettingError: If there are no validation predictions to choose on.
    """
    from ensemble_transfer.metrics.selective import fewest_examples, threshold_at_coverage, threshold_at_risk

    setting, wanted = ("coverage", coverage) if risk is None else ("risk", risk)
    if wanted is None:
        return -math.inf, ""
    known = saved.calibration
    if known is None:
        raise SettingError(setting, wanted, "needs the validation predictions of calibration.safetensors")
    choose = threshold_at_coverage if risk is None else threshold_at_risk
    found = choose(known.confidence, known.correct, wanted)
    if found is None:
        rule = f"no threshold keeps risk {wanted:g} with 95% confidence on {len(known.correct)} validation images"
        fewest, advice = fewest_examples(wanted), "allow a larger --risk, or use --coverage"
        if len(known.correct) < fewest:
            advice = f"it takes {fewest}, even if all answers are right; {advice}"
        return math.inf, f"{rule}: abstains on all images; {advice}"
    line = (
        f"answers where the probability is at least {found.value:.6f}; on {found.examples} validation images that is "
        f"coverage {found.coverage:.3f}, risk {found.risk:.4f} ({found.errors} wrong of {found.answered})"
    )
    bound = "" if found.bound is None else f", below {found.bound:.4f} with 95% confidence"
    line += f"{bound}: an estimate, for images like those"
    history = saved.ensemble.history
    if history.get("chosen_on") == "validation":
        line += f"\nthe true risk can be higher: {history.get('strategy')} chose the ensemble on the same images"
    return found.value, line
