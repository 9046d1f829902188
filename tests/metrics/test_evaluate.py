import json
import re

import numpy as np
import pytest
import torch
from drawn import draw
from scipy.stats import binomtest

from ensemble_transfer.cli.evaluate import main
from ensemble_transfer.metrics.evaluate import evaluate

FAMILIES = {
    "ensemble": "accuracy nll brier balanced_accuracy accuracy_low accuracy_high",
    "member": "accuracy nll brier ece accuracy_min accuracy_max",
    "calibration": "ece mce ece_adaptive ece_classwise",
    "calibrated": "nll ece temperature",
    "selective": "aurc eaurc augrc coverage_at_5_risk risk_at_80_coverage",
    "diversity": "disagreement disagreement_normalised kl js mutual_information "
    "error_correlation q_statistic double_fault kappa jensen_gap",
}
KEYS = [f"{family}/{name}" for family, names in FAMILIES.items() for name in names.split()]


@pytest.fixture
def full():
    """The arrays of a file with everything in it."""
    probabilities, labels = draw()
    validation, validation_labels = draw(examples=30, seed=1)
    return {
        "probabilities": probabilities,
        "labels": labels,
        "validation/probabilities": validation,
        "validation/labels": validation_labels,
        "ood/digits/probabilities": draw(examples=25, seed=2)[0],
        "corruption/blur/1/probabilities": draw(seed=3)[0],
        "corruption/blur/2/probabilities": draw(seed=4)[0],
        "corruption/noise/2/probabilities": draw(seed=5)[0],
    }


@pytest.fixture
def save(tmp_path):
    def write(arrays):
        path = tmp_path / "predictions.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


def test_keys():
    assert list(evaluate(*draw())) == KEYS
    found = evaluate(
        *draw(),
        ood={"a": draw(seed=1)[0], "b": draw(examples=7)[0]},
        corruptions={("blur", 3): draw(seed=2)[0]},
    )
    scores, measures = ("max_probability", "entropy", "mutual_information"), ("auroc", "aupr", "fpr95")
    assert list(found) == [
        *KEYS,
        *(f"ood/{name}/{score}/{measure}" for name in "ab" for score in scores for measure in measures),
        *(f"corruption/{name}/3/{key}" for name in ("blur", "mean") for key in ("accuracy", "nll", "ece")),
    ]
    assert all(type(value) is float for value in found.values())


def test_members_are_averaged_one_by_one():
    probabilities, labels = draw()
    found = evaluate(probabilities, labels)
    alone = [evaluate(probabilities[[m]], labels) for m in range(3)]
    for key, source in (("accuracy", "ensemble"), ("nll", "ensemble"), ("brier", "ensemble"), ("ece", "calibration")):
        values = [metrics[f"{source}/{key}"] for metrics in alone]
        assert found[f"member/{key}"] == pytest.approx(np.mean(values))
        if key == "accuracy":
            assert found["member/accuracy_min"] == min(values) < max(values) == found["member/accuracy_max"]


@pytest.mark.parametrize("right", [0, 33, 40])
def test_the_interval_of_the_accuracy_is_that_of_scipy(right):
    one_hot = np.eye(2)[[0] * 40][None]
    found = evaluate(one_hot, np.repeat([0, 1], [right, 40 - right]))
    reference = binomtest(right, 40).proportion_ci(method="exact")
    assert found["ensemble/accuracy_low"] == pytest.approx(reference.low, abs=1e-12)
    assert found["ensemble/accuracy_high"] == pytest.approx(reference.high, abs=1e-12)


def test_temperature_is_fitted_on_validation():
    probabilities, labels = draw()
    found = [
        evaluate(probabilities, labels, validation=draw(seed=seed, examples=100))["calibrated/temperature"]
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    other = evaluate(*draw(seed=7), validation=draw(seed=1, examples=100))
    assert other["calibrated/temperature"] == found[0]


def test_corruptions_are_measured_like_the_ensemble_and_averaged():
    _, labels = draw()
    corruptions = {("blur", 1): draw(seed=3)[0], ("blur", 2): draw(seed=4)[0], ("noise", 2): draw(seed=5)[0]}
    found = evaluate(*draw(), corruptions=corruptions)
    for (name, severity), probabilities in corruptions.items():
        expected = evaluate(probabilities, labels)
        assert found[f"corruption/{name}/{severity}/accuracy"] == expected["ensemble/accuracy"]
        assert found[f"corruption/{name}/{severity}/nll"] == expected["ensemble/nll"]
        assert found[f"corruption/{name}/{severity}/ece"] == expected["calibration/ece"]
    for key in ("accuracy", "nll", "ece"):
        assert found[f"corruption/mean/1/{key}"] == found[f"corruption/blur/1/{key}"]
        both = [found[f"corruption/{name}/2/{key}"] for name in ("blur", "noise")]
        assert found[f"corruption/mean/2/{key}"] == pytest.approx(np.mean(both))


def test_takes_lists_arrays_and_tensors_of_any_layout():
    probabilities, labels = draw()
    expected = evaluate(probabilities, labels)
    read_only = probabilities.copy()
    read_only.flags.writeable = False
    before = probabilities.copy(), labels.copy()
    forms = [
        (probabilities.tolist(), labels.tolist()),
        (torch.from_numpy(probabilities).requires_grad_(), torch.from_numpy(labels).to(torch.int32)),
        (read_only, labels.astype(np.uint8)),
        (probabilities.astype(">f4")[::-1, ::-1], labels.astype(">i2")[::-1]),
    ]
    for form in forms:
        assert evaluate(*form) == pytest.approx(expected, abs=1e-9)
    assert (probabilities == before[0]).all()
    assert (labels == before[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ood": {"a/b": draw()[0]}}, "name 'a/b' cannot be part of a key; must be non-empty and without '/'"),
        ({"corruptions": {("mean", 1): draw()[0]}}, "corruption 'mean' has a reserved name"),
        (
            {"corruptions": {("fog", 1): draw(examples=9)[0]}},
            "corruption/fog/1/probabilities has 9 examples; must",
        ),
    ],
)
def test_bad_arguments(change, message):
    probabilities, labels = draw()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        evaluate(**({"probabilities": probabilities, "labels": labels} | change))


def test_json_output_is_what_evaluate_returns(full, save, capsys):
    assert main([save(full), "--json"]) == 0
    printed = capsys.readouterr()
    expected = evaluate(
        full["probabilities"],
        full["labels"],
        validation=(full["validation/probabilities"], full["validation/labels"]),
        ood={"digits": full["ood/digits/probabilities"]},
        corruptions={
            (name, severity): full[f"corruption/{name}/{severity}/probabilities"]
            for name, severity in (("blur", 1), ("blur", 2), ("noise", 2))
        },
    )
    assert json.loads(printed.out) == expected
    assert printed.err == ""


def test_table_holds_every_metric(full, save, capsys):
    assert main([save(full)]) == 0
    printed = capsys.readouterr().out
    metrics = evaluate(full["probabilities"], full["labels"])
    assert "members: 3, examples: 40, classes: 4" in printed
    assert "temperature fitted on: validation" in printed
    for key in KEYS:
        line = next(line for line in printed.splitlines() if f" {key} " in line)
        if not key.startswith("calibrated/") and metrics[key] >= 1e-3:
            assert f"{metrics[key]:.4f}" in line
    for text in ("ood/digits/mutual_information/auroc", "fpr95", "corruption/mean/2/nll"):
        assert text in printed


def test_unknown_arrays_are_named_and_undefined_metrics_are_null(save, capsys):
    probabilities, labels = draw(members=1)
    arrays = {"probabilities": probabilities, "labels": labels, "source/labels": labels}
    path = save(arrays | {"val/labels": labels, "x": labels})
    assert main([path, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{path}: arrays not used: val/labels, x\n"
    found = json.loads(printed.out, parse_constant=pytest.fail)
    assert found["diversity/kappa"] is None
    assert found["diversity/disagreement"] == 0


def broken(arrays, name, value):
    return {key: array for key, array in (arrays | {name: value}).items() if array is not None}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", None, "has no array 'labels'; its arrays are: probabilities, "),
        ("probabilities", draw()[0] / 2, "probabilities sums to 0.5 over the classes of member "),
        ("probabilities", np.array([{}]), "array 'probabilities' cannot be read: it holds objects; must hold"),
        ("corruption/a/b/probabilities", draw()[0], "array 'corruption/a/b/probabilities' has severity"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(name, value, message, full, save, capsys):
    path = save(broken(full, name, value))
    assert main([path]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {path}: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", None])
def test_a_file_that_is_no_npz_is_refused_in_one_line(content, tmp_path, capsys):
    path = tmp_path / "predictions.npz"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(
        f"error: {path}: must be an .npz file that exists and is whole, as numpy.savez writes it"
    )
    assert (printed.out, printed.err.count("\n")) == ("", 1)
