"""Compute every metric of an ensemble's predictions.

It accepts predictions of any origin: probabilities (members, examples, classes) and labels (examples,). Torch is
imported when something is computed, so that the command line's ``--help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike
    from torch import Tensor

    Values: TypeAlias = ArrayLike | Tensor


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
    from ensemble_transfer.metrics import summary
    from ensemble_transfer.metrics.predictive import ensemble_mean

    test, labels = _predictions(probabilities, labels)
    members, examples, classes = test.shape
    mean, held_out = ensemble_mean(test), _held_out(validation, test)
    fitted_on = None if held_out is None else (ensemble_mean(held_out[0]), held_out[1])
    ood_sets = {
        name: _probabilities(array, f"ood/{_key_part(name)}/probabilities", members, classes)
        for name, array in (ood or {}).items()
    }
    corrupted = {
        (name, severity): _corrupted(array, name, severity, (members, examples, classes))
        for (name, severity), array in (corruptions or {}).items()
    }
    return {
        **summary.predictive_metrics(test, mean, labels),
        **summary.calibration_metrics(mean, labels),
        **summary.calibrated_metrics(mean, labels, fitted_on),
        **summary.selective_metrics(mean, labels),
        **summary.diversity_metrics(test, labels),
        **summary.ood_metrics(test, ood_sets),
        **summary.corruption_metrics(corrupted, labels),
    }


def curves(probabilities: Values, labels: Values, *, validation: tuple[Values, Values] | None = None) -> dict[str, Any]:
    """Compute the curves of a record; see :mod:`ensemble_transfer.metrics.curves`.

    Args:
        probabilities: Of each member: (M, N, C).
        labels: Class indices: (N,).
        validation: As for :func:`evaluate`.

    Returns:
        ``reliability`` and, after temperature scaling, ``reliability_calibrated``; ``accuracy_rejection``,
        ``ensemble_size``, ``disagreement``, ``member_accuracy``, and ``confusion`` up to 100 classes. Dicts, lists,
        numbers and None only.

    Raises:
        ValueError: As :func:`evaluate` does.
    """
    from ensemble_transfer.metrics import curves as draw
    from ensemble_transfer.metrics import summary
    from ensemble_transfer.metrics.predictive import ensemble_mean

    test, labels = _predictions(probabilities, labels)
    mean = ensemble_mean(test)
    held_out = _held_out(validation, test)
    fitted_on = None if held_out is None else (ensemble_mean(held_out[0]), held_out[1])
    return {
        "reliability": draw.reliability(mean, labels),
        "reliability_calibrated": draw.reliability(summary.calibrated(mean, labels, fitted_on)[0], labels),
        "accuracy_rejection": draw.accuracy_rejection(mean, labels),
        "ensemble_size": draw.ensemble_size(test, labels, held_out),
        "disagreement": draw.disagreement(test),
        "member_accuracy": (test.argmax(-1) == labels).double().mean(-1).tolist(),
        **({"confusion": draw.confusion(mean, labels)} if mean.shape[1] <= draw.CLASSES else {}),
    }


def _predictions(
    probabilities: Values,
    labels: Values,
    prefix: str = "",
    members: int | None = None,
    classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    from ensemble_transfer.metrics.checks import check_labels

    checked = _probabilities(probabilities, f"{prefix}probabilities", members, classes)
    indices = _tensor(labels, f"{prefix}labels")
    check_labels(indices, checked.shape[1], checked.shape[2], f"{prefix}labels")
    return checked, indices.long()


def _held_out(validation: tuple[Values, Values] | None, test: Tensor) -> tuple[Tensor, Tensor] | None:
    if validation is None:
        return None
    return _predictions(*validation, "validation/", test.shape[0], test.shape[2])


def _probabilities(values: Values, name: str, members: int | None = None, classes: int | None = None) -> Tensor:
    from ensemble_transfer.metrics.checks import check_probabilities

    tensor = _tensor(values, name)
    check_probabilities(tensor, name, members=members, classes=classes)
    return tensor


def _corrupted(values: Values, name: str, severity: int, shape: tuple[int, int, int]) -> Tensor:
    if _key_part(name) == "mean":
        raise ValueError("corruption 'mean' has a reserved name; it holds the means over the corruptions")
    array = f"corruption/{name}/{severity}/probabilities"
    tensor = _probabilities(values, array, shape[0], shape[2])
    if tensor.shape[1] != shape[1]:
        raise ValueError(f"{array} has {tensor.shape[1]} examples; must be {shape[1]}, as in probabilities")
    return tensor


def _key_part(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"name {name!r} cannot be part of a key; must be non-empty and without '/'")
    return name


def _tensor(values: Values, name: str) -> Tensor:
    """Return a tensor on the CPU, whatever the strides, byte order or writability of an array; copy where needed."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
        return values.detach().cpu().to(torch.int64 if whole else values.dtype)
    try:
        array = np.require(values, requirements=["C", "W"])
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {array.dtype}; must be numbers")
    if array.dtype.kind == "f":
        array = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64, copy=False)
    return torch.from_numpy(array)
