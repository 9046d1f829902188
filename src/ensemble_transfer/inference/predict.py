"""Predict classes of images with a transferred ensemble, and choose where it abstains.

Torch is imported when something is computed, so that the command line's ``--help`` answers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ensemble_transfer.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ensemble_transfer.inference.saved import SavedEnsemble

COLUMNS = ("path", "label", "probability", "entropy", "mutual_information", "disagreement", "abstain")
Row = dict[str, Any]
"""A row of the output, by column."""


@dataclass(frozen=True)
class Answers:
    """What rows hold and where they abstain.

    Attributes:
        threshold: Abstain where the probability is below this.
        cascade: Ask the next network where it is below this, and have a column ``networks``; None to ask all of them.
        every_class: Whether there is a column for each class, ``probability_CLASS``.
    """

    threshold: float = -math.inf
    cascade: float | None = None
    every_class: bool = False

    def columns(self, classes: Sequence[str]) -> list[str]:
        """Return the names of the columns."""
        of_classes = [f"probability_{name}" for name in classes] if self.every_class else []
        return [*COLUMNS, *([] if self.cascade is None else ["networks"]), *of_classes]


def predict_rows(saved: SavedEnsemble, images: Tensor, answers: Answers | None = None) -> list[Row]:
    """Return the predictions for a batch of images: the columns after ``path``.

    Args:
        saved: The ensemble and its calibration.
        images: (examples, channels, height, width) uint8.
        answers: What the rows hold; None for the columns of every output.

    Raises:
        ValueError: If the members' outputs are not probabilities, as with weights that are not finite.
    """
    from ensemble_transfer.inference.cascade import in_stages

    answers, rows = answers or Answers(), dict[int, Row]()
    asked = math.inf if answers.cascade is None else answers.cascade
    for networks, places, members in in_stages(saved, images, asked):
        rows |= zip(places.tolist(), _rows(saved, members, answers, networks), strict=True)
    return [rows[place] for place in range(len(images))]


def _rows(saved: SavedEnsemble, members: Tensor, answers: Answers, networks: int) -> Iterator[Row]:
    from ensemble_transfer.inference.calibration import decide
    from ensemble_transfer.metrics import diversity, predictive

    decisions, examples = decide(members, saved.temperature), members.shape[1]
    columns = (
        [saved.classes[label] for label in decisions.label.tolist()],
        decisions.confidence.tolist(),
        predictive.entropy(decisions.probabilities).tolist(),
        diversity.mutual_information(members).tolist(),
        (predictive.predicted_class(members) != decisions.label).double().mean(0).tolist(),
        (decisions.confidence < answers.threshold).tolist(),
        *([] if answers.cascade is None else [[networks] * examples]),
        *(decisions.probabilities.T.tolist() if answers.every_class else []),
    )
    for values in zip(*columns, strict=True):
        yield dict(zip(answers.columns(saved.classes)[1:], values, strict=True))


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
