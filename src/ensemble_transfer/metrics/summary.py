"""Every metric, by family, as floats under its key; each is defined at its function.

Tensors are expected to have passed :mod:`ensemble_transfer.metrics.checks`: probabilities (M, N, C), labels
(N,).
"""

from collections.abc import Mapping
from statistics import mean as mean_of

import torch
from torch import Tensor

from ensemble_transfer.metrics import calibration, diversity, ood, predictive, selective


def predictive_metrics(probabilities: Tensor, mean: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``ensemble/`` of ``mean`` (N, C), and ``member/``, its values averaged over the members."""
    ensemble = _quality(mean, labels)
    members = [_quality(member, labels) | _ece(member, labels) for member in probabilities]
    accuracies = [member["accuracy"] for member in members]
    return (
        {f"ensemble/{key}": value for key, value in ensemble.items()}
        | {f"member/{key}": mean_of([member[key] for member in members]) for key in members[0]}
        | {"member/accuracy_min": min(accuracies), "member/accuracy_max": max(accuracies)}
    )


def calibration_metrics(mean: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``calibration/`` of the ensemble's probabilities, ``mean`` (N, C)."""
    return {
        "calibration/ece": calibration.ece(mean, labels).item(),
        "calibration/mce": calibration.mce(mean, labels).item(),
        "calibration/ece_adaptive": calibration.ece_adaptive(mean, labels).item(),
        "calibration/ece_classwise": calibration.ece_classwise(mean, labels).item(),
    }


def calibrated_metrics(
    mean: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None
) -> dict[str, float]:
    """Compute ``calibrated/``, after temperature scaling of the ensemble's probabilities; see :func:`calibrated`."""
    scaled, temperature = calibrated(mean, labels, validation)
    return {
        "calibrated/nll": predictive.nll(scaled, labels).item(),
        "calibrated/ece": calibration.ece(scaled, labels).item(),
        "calibrated/temperature": temperature,
    }


def calibrated(mean: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, float]:
    """Return the ensemble's probabilities after temperature scaling (N, C), and the temperature.

    Args:
        mean: The ensemble's probabilities (N, C).
        labels: (N,).
        validation: Probabilities and labels for the temperature; None to fit it on each half of the given examples for
            the other half.
    """
    if validation is None:
        return calibration.cross_calibrate(mean, labels)
    temperature = calibration.fit_temperature(*validation)
    return calibration.apply_temperature(mean, temperature), temperature


def selective_metrics(mean: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``selective/`` of the ensemble's probabilities, ``mean`` (N, C), by their largest."""
    risk = selective.risk_curve(predictive.confidence(mean), predictive.correctness(mean, labels))
    return {
        "selective/aurc": selective.aurc(risk).item(),
        "selective/eaurc": selective.eaurc(risk).item(),
        "selective/augrc": selective.augrc(risk).item(),
        "selective/coverage_at_5_risk": selective.coverage_at_risk(risk, 0.05).item(),
        "selective/risk_at_80_coverage": selective.risk_at_coverage(risk, 80).item(),
    }


def diversity_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``diversity/`` of the members' predictions."""
    predictions = torch.stack([predictive.predicted_class(member) for member in probabilities])
    correct = predictions == labels
    disagreement = diversity.disagreement(predictions)
    normalised = diversity.normalised_disagreement(disagreement, correct.double().mean())
    return {
        "diversity/disagreement": disagreement.item(),
        "diversity/disagreement_normalised": normalised.item(),
        "diversity/kl": diversity.kl(probabilities).item(),
        "diversity/js": diversity.js(probabilities).item(),
        "diversity/mutual_information": diversity.mutual_information(probabilities).mean().item(),
        "diversity/error_correlation": diversity.error_correlation(correct).item(),
        "diversity/q_statistic": diversity.q_statistic(correct).item(),
        "diversity/double_fault": diversity.double_fault(correct).item(),
        "diversity/kappa": diversity.kappa(correct).item(),
        "diversity/jensen_gap": diversity.jensen_gap(probabilities, labels).item(),
    }


def ood_metrics(probabilities: Tensor, ood_sets: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute ``ood/<name>/<score>/`` for each set of examples out of distribution, (M, K, C) by name."""
    if not ood_sets:
        return {}
    own_scores = ood.scores(probabilities)
    return {
        f"ood/{name}/{score}/{metric}": value.item()
        for name, examples in ood_sets.items()
        for score, ood_scores in ood.scores(examples).items()
        for metric, value in ood.detection(own_scores[score], ood_scores).items()
    }


def corruption_metrics(corruptions: Mapping[tuple[str, int], Tensor], labels: Tensor) -> dict[str, float]:
    """Compute ``corruption/<name>/<severity>/`` of the ensemble, and under ``mean`` the means over names.

    Args:
        corruptions: (M, N, C) by name of the corruption and severity, for the same examples as ``labels``.
        labels: (N,).
    """
    by_severity: dict[int, list[dict[str, float]]] = {}
    found: dict[str, float] = {}
    for (name, severity), probabilities in corruptions.items():
        mean = predictive.ensemble_mean(probabilities)
        measured = {
            "accuracy": predictive.accuracy(mean, labels).item(),
            "nll": predictive.nll(mean, labels).item(),
        } | _ece(mean, labels)
        found |= {f"corruption/{name}/{severity}/{key}": value for key, value in measured.items()}
        by_severity.setdefault(severity, []).append(measured)
    for severity, measurements in sorted(by_severity.items()):
        for key in measurements[0]:
            values = [measured[key] for measured in measurements]
            found[f"corruption/mean/{severity}/{key}"] = mean_of(values)
    return found


def _quality(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "accuracy": predictive.accuracy(probabilities, labels).item(),
        "nll": predictive.nll(probabilities, labels).item(),
        "brier": predictive.brier(probabilities, labels).item(),
    }


def _ece(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    return {"ece": calibration.ece(probabilities, labels).item()}
