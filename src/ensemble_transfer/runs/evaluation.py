"""What a run predicts: every array of ``predictions.npz``, from which all metrics are computed."""

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble_transfer.metrics.archive import LARGE, compact
from ensemble_transfer.metrics.calibration import ece
from ensemble_transfer.metrics.checks import as_predictions
from ensemble_transfer.metrics.evaluate import QUALITY, evaluate
from ensemble_transfer.metrics.predictive import ensemble_mean
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.runs.evaluation_settings import KEPT, EvaluationSettings
from ensemble_transfer.tasks.corruptions import corrupt
from ensemble_transfer.tasks.task import Split, Task

SOUP = (*QUALITY, ece)
"""Metrics of the soup, which is a single network; their keys start with ``soup/``."""

TOLD = 100_000_000
"""Bytes of predictions from which on their size is told before anything is trained."""

log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[np.generic]]

_of_sources: dict[tuple[Hashable, ...], Arrays] = {}
"""The last source ensemble's predictions."""


@dataclass(frozen=True)
class Tasks:
    """The loaded tasks of a run.

    Attributes:
        source: The source task; None for a target alone.
        target: The target task.
        ood: Out-of-distribution images by name, those of the source task of classes that the target lacks.
    """

    source: Task | None
    target: Task
    ood: Mapping[str, Split]

    @property
    def name(self) -> str:
        """``source -> target``, or the target's name alone."""
        return self.target.name if self.source is None else f"{self.source.name} -> {self.target.name}"

    def fingerprints(self) -> dict[str, str]:
        """Return what tells the images and labels of source and target from others."""
        own = {"source": self.source, "target": self.target}
        return {name: task.fingerprint for name, task in own.items() if task is not None}

    def origins(self) -> dict[str, str]:
        """Return what tells all images that source and target were drawn from, where that is known."""
        own = {"source": self.source, "target": self.target}
        return {name: task.origin for name, task in own.items() if task is not None and task.origin}

    def notes(self) -> list[str]:
        """Return why something is not evaluated that a reader would look for, a sentence each."""
        if self.source is None or "source" in self.ood:
            return []
        shared = f"the target has all {len(self.source.classes)} classes of the source"
        return [f"Images of the source are not counted as out of distribution: {shared}."]


def images_of(tasks: Tasks, settings: EvaluationSettings) -> int:
    """Return how many images of the target, changed ones and others, each member of the ensemble predicts."""
    target, changed = tasks.target, len(settings.kinds) * len(settings.severities)
    others = (1 + changed) * len(target.test) + sum(map(len, tasks.ood.values())) if settings.test else 0
    return len(target.validation) + others


def tell_size(tasks: Tasks, settings: EvaluationSettings, members: int) -> None:
    """Log how large ``predictions.npz`` may become, where it is large: it is not packed by much."""
    source = tasks.source
    values = [images_of(tasks, settings) * len(tasks.target.classes)]
    if source is not None:
        values += [len(split) * len(source.classes) for split in (source.validation, source.test)]
    each = {"members": members, "ensemble": 1, "none": 0}[settings.keep]
    size = sum(each * n * (2 if each * n >= LARGE else 4) for n in values)  # large ones in half precision
    if size > TOLD:
        hint = "; evaluation.keep=ensemble keeps the ensemble's alone, none nothing" if settings.keep == KEPT[0] else ""
        log.info("predictions.npz takes about %d MB%s", size / 1e6, hint)


def kept(arrays: Arrays, keep: str) -> Arrays:
    """Return what ``predictions.npz`` keeps of a run's arrays; by ``evaluation.keep``."""
    if keep == "none":
        return {}
    if keep == "ensemble":
        several = {name for name in arrays if name.split("/")[-1] == "probabilities"}
        means = {name: ensemble_mean(torch.from_numpy(arrays[name])).float()[None].numpy() for name in several}
        arrays = {name: means.get(name, array) for name, array in arrays.items()}  # (M, N, C) -> float32 (1, N, C)
    return compact(arrays)


def predict_target(ensemble: Ensemble, tasks: Tasks, settings: EvaluationSettings, device: torch.device) -> Arrays:
    """Return the ensemble's predictions; only this and :func:`predict_soup` read the target's test split."""
    target = tasks.target
    arrays = _labelled(ensemble, target.validation, "validation/", device)
    if not settings.test:
        return arrays
    test = target.test
    arrays = _labelled(ensemble, test, "", device) | arrays
    for name, split in tasks.ood.items():
        arrays[f"ood/{name}/probabilities"] = ensemble.predict(split.images, device).numpy()
    for kind in settings.kinds:
        for severity in settings.severities:
            corrupted = corrupt(test.images, kind, severity)
            key = f"corruption/{kind}/{severity}/probabilities"
            arrays[key] = ensemble.predict(corrupted, device).numpy()
    return arrays


def predict_source(ensemble: Ensemble, source: Task, device: torch.device) -> Arrays:
    """Return the source ensemble's predictions on its own task, under names that start with ``source/``.

    The runs of a sweep that share a process and a source ensemble compute them once.
    """
    key = (
        ensemble.architecture,
        ensemble.fingerprint,
        source.validation.fingerprint,
        source.test.fingerprint,
        str(device),
    )
    if key not in _of_sources:
        validation = _labelled(ensemble, source.validation, "source/validation/", device)
        _of_sources.clear()
        _of_sources[key] = _labelled(ensemble, source.test, "source/", device) | validation
    return dict(_of_sources[key])


def predict_soup(soup: Ensemble, target: Task, device: torch.device) -> Arrays:
    """Return the test predictions (1, examples, classes) of the one network that the members' mean weights make."""
    return {"soup/probabilities": soup.predict(target.test.images, device).numpy()}


def metrics_of(arrays: Arrays) -> dict[str, float]:
    """Return every metric of a run's arrays.

    Their keys start with ``target/test/``, where the test split was predicted, ``target/validation/`` and, with a
    source task, ``source/test/``.
    """
    held_out = arrays["validation/probabilities"], arrays["validation/labels"]
    parts = {"target/test": _of_test(arrays, held_out)} if "probabilities" in arrays else {}
    parts["target/validation"] = evaluate(*held_out)
    if "source/probabilities" in arrays:
        of_source = arrays["source/validation/probabilities"], arrays["source/validation/labels"]
        parts["source/test"] = evaluate(arrays["source/probabilities"], arrays["source/labels"], validation=of_source)
    return {f"{part}/{key}": value for part, metrics in parts.items() for key, value in metrics.items()}


def _of_test(arrays: Arrays, validation: tuple[NDArray[np.generic], NDArray[np.generic]]) -> dict[str, float]:
    """Return the metrics of the target's test images, of changed ones and of others, and of the soup."""
    metrics = evaluate(
        arrays["probabilities"],
        arrays["labels"],
        validation=validation,
        ood={k.split("/")[1]: v for k, v in arrays.items() if k.startswith("ood/")},
        corruptions={
            (k.split("/")[1], int(k.split("/")[2])): v for k, v in arrays.items() if k.startswith("corruption/")
        },
    )
    if "soup/probabilities" in arrays:
        soup, labels = as_predictions(arrays["soup/probabilities"], arrays["labels"])
        metrics |= {f"soup/{metric.__name__}": metric(soup[0], labels).item() for metric in SOUP}
    return metrics


def _labelled(ensemble: Ensemble, split: Split, prefix: str, device: torch.device) -> Arrays:
    return {
        f"{prefix}probabilities": ensemble.predict(split.images, device).numpy(),
        f"{prefix}labels": split.labels.numpy(),
    }
