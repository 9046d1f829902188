"""What a run keeps of its predictions, and what it says about their size beforehand."""

import logging

import numpy as np
import pytest
import torch

from ensemble_transfer import Ensemble, SettingError
from ensemble_transfer.metrics.archive import read_predictions
from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.runs import evaluation
from ensemble_transfer.runs.evaluation import Tasks, kept, metrics_of, predict_target, tell_size
from ensemble_transfer.runs.evaluation_settings import EvaluationSettings

CPU = torch.device("cpu")


@pytest.fixture
def ensemble(backbone, target_task):
    architecture = backbone.architecture(8, 1, len(target_task.classes))
    return Ensemble(architecture, tuple(architecture.initial(seed) for seed in range(3)), target_task.classes)


@pytest.fixture
def tasks(source_task, target_task):
    return Tasks(source_task, target_task, {"source": source_task.test})


def test_what_is_kept_decides_the_file_and_no_metric(ensemble, tasks, tmp_path):
    with pytest.raises(SettingError, match=r"^keep='all': must be members, ensemble or none$"):
        EvaluationSettings(keep="all")
    settings = EvaluationSettings(corruptions=["contrast"], severities=[3], keep="ensemble")
    arrays = predict_target(ensemble, tasks, settings, CPU)
    assert kept(arrays, "members") == arrays
    assert kept(arrays, "none") == {}
    np.savez(tmp_path / "kept.npz", **kept(arrays, "ensemble"))
    found, unread = read_predictions(str(tmp_path / "kept.npz"))
    assert (found["probabilities"].shape, unread) == ((1, len(tasks.target.test), len(tasks.target.classes)), [])
    whole, alone = metrics_of(arrays), evaluate(**found)
    same = [key for key in alone if not key.startswith(("member/", "diversity/")) and "mutual" not in key]
    assert {key.split("/")[0] for key in same} == {
        "ensemble",
        "calibration",
        "calibrated",
        "selective",
        "ood",
        "corruption",
    }
    assert {key: alone[key] for key in same} == pytest.approx(
        {key: whole[f"target/test/{key}"] for key in same}, abs=1e-5
    )


@pytest.mark.parametrize(("least", "each"), [(1, 2), (10**6, 4)])  # bytes of a value of large arrays, and of others
@pytest.mark.parametrize(("keep", "share"), [("members", 3), ("ensemble", 1)])
def test_the_size_of_large_predictions_is_told_beforehand(tasks, monkeypatch, caplog, keep, share, least, each):
    settings = EvaluationSettings(corruptions=["contrast", "jpeg"], severities=[1, 5], keep=keep)
    target, source = tasks.target, tasks.source
    images = len(target.validation) + 5 * len(target.test) + len(source.test)
    values = images * len(target.classes) + (len(source.validation) + len(source.test)) * len(source.classes)
    monkeypatch.setattr(evaluation, "LARGE", least)
    with caplog.at_level(logging.INFO):
        tell_size(tasks, settings, 3)
        assert not caplog.messages
        monkeypatch.setattr(evaluation, "TOLD", each * values * share - 1)
        tell_size(tasks, settings, 3)
    [line] = caplog.messages
    assert line.startswith(f"predictions.npz takes about {each * values * share // 10**6} MB")
    assert ("evaluation.keep=ensemble" in line) == (keep == "members")
