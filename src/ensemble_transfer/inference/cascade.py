"""A cascade: the second network runs only where the first is unsure, and so on (Wang et al. 2022, arXiv 2012.01988)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError, require
from ensemble_transfer.inference.calibration import Calibration, decide
from ensemble_transfer.inference.saved import SavedEnsemble

ONE_IN = 500
"""Of so many validation images, a cascade may have one wrong that all networks have right."""

_TRIED = 500
"""Thresholds that are tried: quantiles of the confidences on validation."""


@dataclass(frozen=True)
class Cascade:
    """When to ask the next network, and what that gave on the validation images.

    Attributes:
        threshold: The next network runs where the probability of the class, of those before, is below this.
        networks: Mean number of networks an image.
        calibration: The cascade's own predictions, which a threshold of abstaining is chosen on.
        about: A line that describes it.
    """

    threshold: float
    networks: float
    calibration: Calibration
    about: str


def choose_cascade(saved: SavedEnsemble) -> Cascade:
    """Choose the cascade of fewest networks that loses, on validation, one right answer in 500 images at the most.

    No higher threshold loses more either: one that is good by chance is passed over.

    Raises:
        SettingError: If there is one network only, or there are no validation predictions to choose on.
    """
    known, networks = saved.calibration, len(saved.ensemble.by_encoder)
    require(networks > 1, "cascade", True, "needs two networks or more; the members of this ensemble share one")
    if known is None:
        raise SettingError("cascade", True, "needs the validation predictions of calibration.safetensors")
    chosen = _outcome(known, float("inf"))
    shares = torch.linspace(0, 1, _TRIED, dtype=torch.float64)
    for threshold in known.stage_confidence[:-1].quantile(shares).flip(0).tolist():
        tried = _outcome(known, threshold)
        lost = known.correct & ~tried.calibration.correct  # what it wins besides does not count: it may be luck
        if lost.sum() * ONE_IN > len(lost):
            break
        chosen = tried
    return chosen


def _outcome(known: Calibration, threshold: float) -> Cascade:
    """Return what a cascade with this threshold gives on the validation images."""
    sure = known.stage_confidence >= threshold
    sure[-1] = True
    last = sure.int().argmax(0, keepdim=True)  # the first stage that is sure
    own = Calibration(known.temperature, known.stage_confidence.gather(0, last), known.stage_correct.gather(0, last))
    networks = last.double().mean().item() + 1
    accuracies = [part.correct.double().mean().item() for part in (own, known)]
    about = (
        f"cascade: the next network runs where the probability is below {threshold:.4f}; "
        f"on {len(own.correct)} validation images that is {networks:.2f} of {len(sure)} networks an image "
        f"and accuracy {accuracies[0]:.4f}, with all {accuracies[1]:.4f}: an estimate, for images like those"
    )
    return Cascade(threshold, networks, own, about)


def in_stages(saved: SavedEnsemble, images: Tensor, threshold: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run network after network, each on the images of which those before are not sure.

    Args:
        saved: The ensemble and its temperature.
        images: (examples, channels, height, width) uint8.
        threshold: Probability from which on the networks so far are sure; infinity runs all on all.

    Yields:
        For each network that is the last for some images: its number from 1, their places, (n,), and what the members
        so far predict for them, (members, n, classes).
    """
    places, members = torch.arange(len(images)), torch.empty(0)
    if not len(places):
        return
    for number, network in enumerate(saved.networks, 1):
        own = saved.run(network, images[places])
        members = torch.cat([members, own]) if number > 1 else own
        sure = torch.ones(len(places), dtype=torch.bool)
        if number < len(saved.networks):
            sure = decide(members, saved.temperature).confidence >= threshold
        if sure.any():
            yield number, places[sure], members[:, sure]
        places, members = places[~sure], members[:, ~sure]
        if not len(places):
            return
