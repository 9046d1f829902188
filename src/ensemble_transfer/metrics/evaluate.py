"""Compute every metric of an ensemble's predictions, of any origin, by family and as floats under its key.

Each metric is defined at its function. Tensors are probabilities (M, N, C) and labels (N,).
"""

from collections.abc import Callable, Iterable, Mapping
from statistics import mean as mean_of

import torch
from torch import Tensor

from ensemble_transfer.metrics import calibration, diversity, ood, predictive, selective
from ensemble_transfer.metrics.checks import Values, as_predictions, as_probabilities

Metric = Callable[..., Tensor]
QUALITY: tuple[Metric, ...] = (predictive.accuracy, predictive.nll, predictive.brier)


def evaluate(
    probabilities: Values,
    labels: Values,
    *,
    validation: tuple[Values, Values] | None = None,
    ood: Mapping[str, Values] | None = None,
    corruptions: Mapping[tuple[str, int], Values] | None = None,
) -> dict[str, float]:
    """Compute every metric of predictions.

    The order of the members and of the examples changes nothing. If mean probabilities tie (to 40 bits), the first
    class is predicted. Examples of equal confidence count as in random order. Out of distribution is the positive
    class of ``ood/``. An undefined metric is NaN: for a single member, the measures of agreement between members.

    Examples:
        >>> metrics = evaluate([[[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [[0.7, 0.3], [0.8, 0.2], [0.1, 0.9]]], [0, 0, 1])
        >>> [round(metrics[key], 3) for key in ("ensemble/accuracy", "member/accuracy", "diversity/disagreement")]
        [1.0, 0.833, 0.333]

    Args:
        probabilities: Of each member on the test examples: (M, N, C), C >= 2, summing to 1 over the classes.
        labels: Class indices of the test examples: (N,).
        validation: Probabilities (M, any, C) and labels of the examples that the temperature is fitted on.
            Without them the test examples are dealt into two halves (by content, deterministically), each is
            scaled with the temperature fitted on the other, and ``calibrated/temperature`` is the geometric
            mean over the examples.
        ood: Probabilities (M, any, C) on examples out of distribution, by a name for ``ood/<name>/...``.
        corruptions: Probabilities (M, N, C) on the corrupted test examples, by name and severity.

    Returns:
        The metrics under their keys, in the order of the table.

    Raises:
        ValueError: An array has a wrong shape or dtype, is empty, holds a value that is no probability or no
            class, or a name cannot be part of a key. The message names the array as the command's file would.
    """
    test, labels = as_predictions(probabilities, labels)
    members, examples, classes = test.shape
    mean, fitted_on = predictive.ensemble_mean(test), held_out(validation, test)
    if fitted_on is not None:
        fitted_on = predictive.ensemble_mean(fitted_on[0]), fitted_on[1]
    ood_sets = {
        name: as_probabilities(array, f"ood/{_key_part(name)}/probabilities", members=members, classes=classes)
        for name, array in (ood or {}).items()
    }
    corrupted = {}
    for (name, severity), array in (corruptions or {}).items():
        if _key_part(name) == "mean":
            raise ValueError("corruption 'mean' has a reserved name; it holds the means over the corruptions")
        of = f"corruption/{name}/{severity}/probabilities"
        corrupted[name, severity] = as_probabilities(array, of, members=members, examples=examples, classes=classes)
    return (
        _predictive(test, mean, labels)
        | _calibration(mean, labels, fitted_on)
        | _selective(mean, labels)
        | _diversity(test, labels)
        | _ood(test, ood_sets)
        | _corruption(corrupted, labels)
    )


def held_out(validation: tuple[Values, Values] | None, test: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return validation predictions and labels, checked against the test predictions; None where there are none."""
    if validation is None:
        return None
    return as_predictions(*validation, "validation/", members=test.shape[0], classes=test.shape[2])


def _key_part(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"name {name!r} cannot be part of a key; must be non-empty and without '/'")
    return name


def calibrated(mean: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, float]:
    """Return the ensemble's probabilities after temperature scaling (N, C), and the temperature.

    It is fitted on validation probabilities and labels, or on each half of the given examples for the other half.
    """
    if validation is None:
        return calibration.cross_calibrate(mean, labels)
    temperature = calibration.fit_temperature(*validation)
    return calibration.apply_temperature(mean, temperature), temperature


def _values(prefix: str, metrics: Iterable[Metric], *given: Tensor) -> dict[str, float]:
    """Return metrics under their names."""
    return {f"{prefix}{metric.__name__}": metric(*given).item() for metric in metrics}


def _predictive(probabilities: Tensor, mean: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``ensemble/`` of ``mean`` (N, C), and ``member/``, its values averaged over the members."""
    members = [_values("", (*QUALITY, calibration.ece), member, labels) for member in probabilities]
    accuracies = [member["accuracy"] for member in members]
    right = int(predictive.correctness(mean, labels).sum())
    low, high = selective.interval(right, len(labels))
    return (
        _values("ensemble/", (*QUALITY, predictive.balanced_accuracy), mean, labels)
        | {"ensemble/accuracy_low": low, "ensemble/accuracy_high": high}  # for other images
        | {f"member/{key}": mean_of([member[key] for member in members]) for key in members[0]}
        | {"member/accuracy_min": min(accuracies), "member/accuracy_max": max(accuracies)}
    )


def _calibration(mean: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    """Compute ``calibration/`` of the ensemble's probabilities, and ``calibrated/`` after :func:`calibrated`."""
    scaled, temperature = calibrated(mean, labels, validation)
    errors = (calibration.ece, calibration.mce, calibration.ece_adaptive, calibration.ece_classwise)
    return (
        _values("calibration/", errors, mean, labels)
        | _values("calibrated/", (predictive.nll, calibration.ece), scaled, labels)
        | {"calibrated/temperature": temperature}
    )


def _selective(mean: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``selective/`` of the ensemble's probabilities, ``mean`` (N, C), by their largest."""
    risk = selective.risk_curve(predictive.confidence(mean), predictive.correctness(mean, labels))
    return _values("selective/", (selective.aurc, selective.eaurc, selective.augrc), risk) | {
        "selective/coverage_at_5_risk": selective.coverage_at_risk(risk, 0.05).item(),
        "selective/risk_at_80_coverage": selective.risk_at_coverage(risk, 80).item(),
    }


def _diversity(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``diversity/`` of the members' predictions."""
    predictions = torch.stack([predictive.predicted_class(member) for member in probabilities])
    correct = predictions == labels
    disagreement = diversity.disagreement(predictions)
    of_errors = (diversity.error_correlation, diversity.q_statistic, diversity.double_fault, diversity.kappa)
    return {
        "diversity/disagreement": disagreement.item(),
        "diversity/disagreement_normalised": diversity.normalised_disagreement(
            disagreement, correct.double().mean()
        ).item(),
        **_values("diversity/", (diversity.kl, diversity.js), probabilities),
        "diversity/mutual_information": diversity.mutual_information(probabilities).mean().item(),
        **_values("diversity/", of_errors, correct),
        **_values("diversity/", (diversity.jensen_gap,), probabilities, labels),
    }


def _ood(probabilities: Tensor, ood_sets: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute ``ood/<name>/<score>/`` for each set of examples out of distribution, (M, K, C) by name."""
    own_scores = ood.scores(probabilities) if ood_sets else {}
    return {
        f"ood/{name}/{score}/{metric}": value.item()
        for name, examples in ood_sets.items()
        for score, ood_scores in ood.scores(examples).items()
        for metric, value in ood.detection(own_scores[score], ood_scores).items()
    }


def _corruption(corruptions: Mapping[tuple[str, int], Tensor], labels: Tensor) -> dict[str, float]:
    """Compute ``corruption/<name>/<severity>/`` of the ensemble, and under ``mean`` the means over names."""
    by_severity: dict[int, list[dict[str, float]]] = {}
    found: dict[str, float] = {}
    for (name, severity), probabilities in corruptions.items():
        mean = predictive.ensemble_mean(probabilities)
        measured = _values("", (predictive.accuracy, predictive.nll, calibration.ece), mean, labels)
        found |= {f"corruption/{name}/{severity}/{key}": value for key, value in measured.items()}
        by_severity.setdefault(severity, []).append(measured)
    for severity, measurements in sorted(by_severity.items()):
        for key in measurements[0]:
            values = [measured[key] for measured in measurements]
            found[f"corruption/mean/{severity}/{key}"] = mean_of(values)
    return found
