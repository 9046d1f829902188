"""Calibration of an ensemble: its temperature, and the validation predictions that thresholds are chosen on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ensemble_transfer.errors import SettingError
from ensemble_transfer.layout import CALIBRATION
from ensemble_transfer.metrics.calibration import apply_temperature, fit_temperature
from ensemble_transfer.metrics.checks import Values, as_predictions
from ensemble_transfer.metrics.predictive import confidence, ensemble_mean, predicted_class
from ensemble_transfer.tensor_files import checksum, read_tensors, write_tensors


@dataclass(frozen=True)
class Decisions:
    """Predictions of an ensemble for N examples.

    Attributes:
        probabilities: Mean over the members, after the temperature: (N, C) float64.
        label: Most probable class: (N,). It is read before the temperature, which changes no label.
        confidence: Largest probability: (N,).
    """

    probabilities: Tensor
    label: Tensor
    confidence: Tensor


def decide(probabilities: Tensor, temperature: float = 1.0) -> Decisions:
    """Return an ensemble's predictions from its members' probabilities (members, examples, classes)."""
    mean = ensemble_mean(probabilities)
    scaled = mean if temperature == 1.0 else apply_temperature(mean, temperature)
    return Decisions(scaled, predicted_class(mean), confidence(scaled))


@dataclass(frozen=True, repr=False)
class Calibration:
    """A temperature, and the validation predictions that thresholds are chosen on.

    Attributes:
        temperature: Fitted on the validation examples.
        stage_confidence: Confidence on the N validation examples, after the temperature, of the first network, of the
            first two, and so on to all of them: (networks, N) float64.
        stage_correct: Whether these classified each of them correctly: (networks, N) bool.
    """

    temperature: float
    stage_confidence: Tensor
    stage_correct: Tensor

    @property
    def confidence(self) -> Tensor:
        """The ensemble's confidence on the validation examples: (N,) float64."""
        return self.stage_confidence[-1]

    @property
    def correct(self) -> Tensor:
        """Whether the ensemble classified each of them correctly: (N,) bool."""
        return self.stage_correct[-1]

    def __repr__(self) -> str:
        accuracy = self.correct.double().mean().item()
        return f"Calibration(temperature {self.temperature:.3f}, {len(self.correct)} examples, accuracy {accuracy:.3f})"

    @classmethod
    def fit(cls, probabilities: Values, labels: Values, networks: Sequence[Sequence[int]] = ()) -> Self:
        """Fit the temperature on validation predictions.

        Args:
            probabilities: (members, examples, classes).
            labels: (examples,).
            networks: The members by network, in the order in which a cascade runs these, as
                :attr:`~ensemble_transfer.models.ensemble.Ensemble.by_encoder` has them. Without, every member is one.

        Raises:
            ValueError: If the arrays are not predictions with labels.
        """
        given, truth = as_predictions(probabilities, labels, "validation/")
        temperature = fit_temperature(ensemble_mean(given), truth)
        ends = list(accumulate(map(len, networks))) if networks else range(1, len(given) + 1)
        order = list(chain.from_iterable(networks)) if networks else list(range(len(given)))
        stages = [decide(given[order[:end]], temperature) for end in ends]
        correct = torch.stack([stage.label == truth for stage in stages])
        return cls(temperature, torch.stack([stage.confidence for stage in stages]), correct)

    def save(self, folder: Path, ensemble: str) -> None:
        """Write ``calibration.safetensors`` into an ensemble's folder."""
        temperature = torch.tensor(self.temperature, dtype=torch.float64)
        stages = {"stage_confidence": self.stage_confidence, "stage_correct": self.stage_correct}
        tensors = {"temperature": temperature, **stages}
        header = {"ensemble": ensemble}
        write_tensors(folder / CALIBRATION, tensors, header | {"sha256": checksum(tensors, header)})

    @classmethod
    def load(cls, folder: Path, ensemble: str) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            SettingError: If the file is missing, damaged, or belongs to another ensemble.
        """
        path = folder / CALIBRATION
        try:
            tensors, header = read_tensors(path)
            if header.pop("sha256", None) != checksum(tensors, header):
                raise ValueError("does not have the checksum that its header states")
            _check(tensors)
        except ValueError as error:
            raise SettingError("calibration", str(path), str(error)) from error
        if header.get("ensemble") != ensemble:
            raise SettingError("calibration", str(path), "belongs to another ensemble; remove it to predict without")
        return cls(tensors["temperature"].item(), tensors["stage_confidence"], tensors["stage_correct"])


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Raise unless the tensors are those of a calibration."""
    dtypes = {"temperature": torch.float64, "stage_confidence": torch.float64, "stage_correct": torch.bool}
    if {name: tensor.dtype for name, tensor in tensors.items()} != dtypes:
        raise ValueError(f"must hold {', '.join(f'{name} ({dtype})' for name, dtype in dtypes.items())}")
    temperature, sure, correct = (tensors[name] for name in dtypes)
    if temperature.ndim or not 0 < temperature.item() < math.inf:
        raise ValueError("temperature must be one number above 0")
    within = ((sure >= 0) & (sure <= 1 + 1e-6)).all()
    if sure.ndim != 2 or sure.shape != correct.shape or not sure.numel() or not within:
        raise ValueError("stage_confidence and stage_correct must have a row a network, confidence in 0..1")
