"""Predictions to measure: smooth ones, and ones made of small integers, full of ties and of exact 0 and 1."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch


@dataclass(frozen=True)
class Predictions:
    """Probabilities (M, N, C) and labels (N,), as NumPy arrays and as tensors."""

    array: np.ndarray
    label_array: np.ndarray

    @property
    def probabilities(self):
        return torch.from_numpy(self.array)

    @property
    def labels(self):
        return torch.from_numpy(self.label_array)

    @property
    def mean(self):
        """The ensemble's probabilities as the reference takes them."""
        return np.mean(self.array, axis=0)


def smooth(members, examples, classes, seed=0):
    """Members that share a signal about the label, without ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=examples)
    logits = rng.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[labels]
    exponentials = np.exp(1.5 * (logits + 0.7 * rng.normal(size=(members, examples, classes))))
    return Predictions(exponentials / exponentials.sum(-1, keepdims=True), labels)


def tied(members, examples, classes, seed=0, total=10):
    """Members that vote in multiples of 1/total; returns the predictions and the votes (M, N, C)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=examples)
    draws = rng.integers(classes, size=(members, examples, total))
    draws = np.where(rng.random(draws.shape) < 0.5, labels[:, None], draws)
    sure = rng.random((members, examples)) < 0.2
    draws[sure] = draws[sure][:, :1]
    votes = (draws[..., None] == np.arange(classes)).sum(2)
    return Predictions(votes / total, labels), votes


def exact_mean(votes):
    """The ensemble's probabilities as fractions: N lists of C."""
    members, _, _ = votes.shape
    total = int(votes[0, 0].sum())
    return [[Fraction(int(v), members * total) for v in row] for row in votes.sum(0)]


def draw(members=3, examples=40, classes=4, seed=0):
    """Smooth probabilities (M, N, C), float32, and labels (N,)."""
    predictions = smooth(members, examples, classes, seed)
    return predictions.array.astype(np.float32), predictions.label_array
