"""The door in the manner of scikit-learn: the same transfer as the workbench's, with scikit-learn's conventions."""

import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas import Series
from pictures import write_pictures
from refusals import refusal
from same import equal
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from ensemble_transfer import Few, SettingError, TransferEnsemble, open_saved, train_source, transfer_ensemble
from ensemble_transfer.runs import estimator
from ensemble_transfer.runs.costs import costs
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.weights import below


@pytest.fixture(scope="module")
def scans():
    """Images (N, 8, 8) of floats in 0..1, and labels."""
    digits = load_digits()
    return digits.images[:400] / 16, digits.target[:400]


@pytest.fixture(scope="module")
def small(backbone, recipes, settings, shared_store):
    """The settings that make every fit short, and so does what times a fine-tuning."""

    def made(strategy="shift", size=2, **others):
        known = {"backbone": backbone, "recipe": recipes, "trainer": settings, "store": shared_store}
        return TransferEnsemble(strategy, size=size, **known | others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemble_transfer.runs.costs.WARM", 1)
        patch.setattr("ensemble_transfer.runs.costs.TIMED", 3)
        yield made


@pytest.fixture(scope="module")
def fitted(small, source_task, target_task):
    return small(size=3, source=source_task).fit(target_task)


def test_costs_are_timed_with_the_threads_of_the_fits(small, source_task, target_task, settings, monkeypatch):
    number, seen = [1], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: number[-1])
    monkeypatch.setattr(torch, "set_num_threads", number.append)
    monkeypatch.setattr(estimator, "costs", lambda *given: seen.append(torch.get_num_threads()) or costs(*given))
    small("head", source=source_task, trainer=replace(settings, threads=2)).fit(target_task)
    assert (seen, number[-1]) == ([2], 1)


def test_it_is_the_transfer_of_the_workbench(fitted, backbone, recipes, fitter, source_task, target_task):
    source, _ = train_source(EnsembleSettings(3), backbone, source_task, 0, recipes, fitter)
    result = transfer_ensemble(Shift(), source, target_task, 0, recipes, fitter)
    assert fitted.source_ensemble_.fingerprint == source.fingerprint
    assert fitted.ensemble_.fingerprint == result.ensemble.fingerprint
    assert fitted.cost_["total"]["flops"] == result.ledger.total().flops
    assert fitted.cost_["total"]["fine_tunings"] == pytest.approx(
        fitted.cost_["total"]["flops"] / fitted.cost_["full_flops"]
    )


def test_predictions_are_the_calibrated_mean_of_the_members(fitted, target_task):
    images, labels = target_task.test.images, target_task.test.labels
    probabilities = fitted.predict_proba(images)
    members = fitted.ensemble_.predict(images)
    assert probabilities.shape == (len(images), 5)
    assert probabilities.sum(1) == pytest.approx(np.ones(len(images)))
    assert (probabilities.argmax(1) == members.double().mean(0).argmax(-1).numpy()).all()
    assert fitted.calibration_.temperature != 1
    assert not np.allclose(probabilities, members.double().mean(0).numpy())
    predicted = fitted.predict(images)
    assert list(predicted) == [target_task.classes[place] for place in probabilities.argmax(1)]
    right = float((probabilities.argmax(1) == labels.numpy()).mean())
    assert fitted.score(images, labels) == right
    assert fitted.score(images, [target_task.classes[label] for label in labels]) == right


def test_arrays_keep_their_labels_and_come_in_any_shape(small, scans):
    images, labels = scans
    low, high = labels < 5, labels >= 5
    coloured = np.repeat(images[high][:, :, :, None], 3, axis=3)
    model = small(source=(images[low], labels[low] * 10)).fit(coloured, labels[high] * 10)
    assert model.classes_.tolist() == [50, 60, 70, 80, 90]
    assert model.ensemble_.architecture.channels == 3
    assert set(model.predict(images)) <= {50, 60, 70, 80, 90}  # gray ones, too
    larger = np.kron(images[high], np.ones((2, 2)))
    assert model.score(larger, labels[high] * 10) == (model.predict(larger) == labels[high] * 10).mean()
    assert model.ensemble_.architecture.image_size == 8


def test_folders_and_files_are_read(small, scans, tmp_path, monkeypatch):
    images, labels = scans
    folders = [f"{'old' if label < 5 else 'new'}/class {label}" for label in labels[:200]]
    write_pictures(tmp_path, np.rint(images[:200] * 255).astype(np.uint8), folders)
    model = small(image_size=8, channels=1, validation=0.2, source=tmp_path / "old").fit(str(tmp_path / "new"))
    assert model.classes_.tolist() == [f"class {digit}" for digit in range(5, 10)]
    files = sorted((tmp_path / "new").glob("*/*.png"))
    assert len(files) - 1 == sum(model._examples.values())  # but for one, all are used
    everything = model.predict_proba(tmp_path / "new")
    assert np.array_equal(everything, model.predict_proba(files))
    assert np.allclose(everything[:1], model.predict_proba(files[0]), atol=1e-4)
    assert 0 <= model.score(files, [file.parent.name for file in files]) <= 1
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SettingError, match=r"^images='.*broken.png': cannot be read: not an image$"):
        model.predict([files[0], tmp_path / "broken.png"])
    with pytest.raises(SettingError, match=r"^images=.*: cannot be read: does not exist$"):
        model.predict("nowhere.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert np.array_equal(everything, model.predict_proba("~/new"))
    (tmp_path / "new").rename(tmp_path / "train")
    shutil.copytree(tmp_path / "old", tmp_path / "val")
    for digit in range(5):
        (tmp_path / "val" / f"class {digit}").rename(tmp_path / "val" / f"class {digit + 5}")
    (tmp_path / "folders").mkdir()
    for name in ("train", "val"):
        (tmp_path / name).rename(tmp_path / "folders" / name)
    own = small("head", image_size=8, channels=1).fit("~/folders")
    assert own._examples["validation"] == len(list((tmp_path / "folders" / "val").rglob("*.png")))


def test_a_saved_model_is_a_saved_ensemble(fitted, target_task, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fitted.save("~/saved")
    saved = open_saved("~/saved")
    assert saved.ensemble.fingerprint == fitted.ensemble_.fingerprint
    assert saved.temperature == fitted.calibration_.temperature
    assert "one more member" in (tmp_path / "saved" / "README.md").read_text()
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(target_task.test.images), fitted.predict_proba(target_task.test.images))


def test_scikit_learn_can_clone_and_set_it(backbone):
    model = TransferEnsemble("few", budget=1.05, size=4, backbone=backbone, members=["a", "b"])
    assert is_classifier(model)
    assert model.get_params()["backbone"] is backbone
    twin = clone(model).set_params(strategy="shift", seed=3)
    assert (twin.strategy, twin.budget, twin.seed, twin.members) == ("shift", 1.05, 3, ["a", "b"])
    assert model.strategy == "few"
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(np.zeros((1, 8, 8)))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.save("nowhere")
    assert not Path("nowhere").exists()


def test_a_folder_as_store_spares_the_second_fit(small, source_task, target_task, tmp_path):
    first = small("head", store=tmp_path / "kept", source=source_task).fit(target_task)
    assert list((tmp_path / "kept").rglob("*.safetensors"))
    again = small("head", store=Store(tmp_path / "kept"), source=source_task).fit(target_task)
    assert again.cost_["total"]["seconds"] == first.cost_["total"]["seconds"]  # of the real fit
    assert again.cost_["total"]["flops"] == first.cost_["total"]["flops"]
    assert again.ensemble_.fingerprint == first.ensemble_.fingerprint


# A target alone


def test_a_target_alone_needs_images_and_labels(small, scans):
    images, labels = scans
    model = small("few").fit(images[:200], labels[:200])
    assert model.classes_.dtype.kind == "i"
    assert model.source_ensemble_.lineage == "untrained"
    assert "source" not in model.cost_
    assert model.predict(images[200:]).dtype.kind == "i"
    assert model.score(images[200:], labels[200:]) == (model.predict(images[200:]) == labels[200:]).mean()
    held = small("head").fit(images[:200], [f"digit {label}" for label in labels[:200]])
    assert held.classes_.tolist() == [f"digit {digit}" for digit in range(10)]
    as_objects = np.array(labels[:200].tolist(), dtype=object)
    assert small("head").fit(images[:200], as_objects).classes_.dtype.kind == "i"


def test_files_with_labels_are_a_target(small, scans, tmp_path):
    files, labels = write_pictures(tmp_path, np.rint(scans[0][:80] * 255).astype(np.uint8)), scans[1][:80] % 2
    settings = {"image_size": 8, "channels": 1}
    model = small("head", **settings).fit(files, labels)
    assert model.classes_.tolist() == [0, 1]
    same = small("head", **settings).fit(np.array([str(file) for file in files]), labels)
    assert np.array_equal(model.predict_proba(files), same.predict_proba(files))
    assert np.array_equal(model.predict_proba(files), model.predict_proba(Series([str(file) for file in files])))
    assert len(cross_val_score(small("head", **settings), files, labels, cv=2)) == 2


def test_fits_in_threads_are_those_of_one_thread(small, scans):
    models = [small("head", seed=seed, store=None) for seed in range(4)]
    alone = [clone(model).fit(*scans).ensemble_.fingerprint for model in models]
    with ThreadPoolExecutor(4) as threads:
        beside = threads.map(lambda model: model.fit(*scans).ensemble_.fingerprint, models)
    assert list(beside) == alone


def test_scikit_learn_searches_scores_and_pipes_it(small, scans):
    images, labels = scans[0][:120], scans[1][:120] % 3
    options = {"strategy": ["head", Few(members=1)]}
    search = GridSearchCV(small("few"), options, cv=2, scoring="neg_log_loss", error_score="raise").fit(images, labels)
    assert search.best_estimator_.predict(images[:2]).dtype == labels.dtype
    assert (search.cv_results_["mean_test_score"] < 0).all()
    pipeline = Pipeline([("mirror", FunctionTransformer(np.fliplr)), ("model", small("head"))]).fit(images, labels)
    assert pipeline.score(images, labels) == pipeline.named_steps["model"].score(np.fliplr(images), labels)
    assert clone(pipeline).set_params(model__seed=4).get_params()["model__seed"] == 4


def test_a_saved_ensemble_is_a_source(small, fitted, target_task, tmp_path):
    folder = tmp_path / "run" / "ensemble"
    fitted.source_ensemble_.save(folder)
    source, opened = str(tmp_path / "run"), open_saved(folder)
    model = small("turns", None, source=source, backbone=None).fit(target_task)  # backbone and size are the ensemble's
    again = small("turns", None, source=opened, backbone=None).fit(target_task)
    assert again.ensemble_.fingerprint == model.ensemble_.fingerprint
    assert len(model.ensemble_) == 3
    assert model.source_ensemble_.lineage == "shared"
    for member, original in zip(model.source_ensemble_.members, fitted.source_ensemble_.members, strict=True):
        assert equal(below(member, "encoder"), below(original, "encoder"))
    assert "source" not in model.cost_
    (folder / "ensemble.json").write_text("{}")
    with pytest.raises(SettingError, match=r"^members='.*': is not a readable ensemble"):
        small("turns", None, source=source, backbone=None).fit(target_task)


def test_the_defaults_are_a_few_members_of_a_pretrained_network_or_a_given_one():
    model = TransferEnsemble()
    assert (model.strategy, model.budget, model.size, model.source) == ("few", None, None, None)
    with pytest.raises(SettingError, match=r"^strategy='shift': needs members that differ"):
        TransferEnsemble("shift", image_size=8, channels=1).fit(np.zeros((9, 8, 8)), [0, 1, 2] * 3)


WRONG = [
    ({"strategy": "shfit"}, r"strategy='shfit': must be one of auto, few, "),
    (
        {"strategy": Shift},
        r"strategy=<class .*Shift'>: must be the name of a strategy, or a strategy such as Shift\(\)",
    ),
    ({"strategy": "auto"}, r"budget=None: "),
    ({"strategy": Shift(donors=5)}, r"strategy.donors=5: "),
    ({"budget": "1"}, r"budget='1': must be a number of fine-tunings, or None"),
    ({"source": 7}, r"source='int': must be images and labels .*, a Task, a loader, or the path of a folder of images"),
    ({"members": "a.pt"}, r"members='a.pt': must be a list of files or folders"),
    ({"recipe": "none"}, r"recipe='none': must be one of default, pretrained"),
    ({"image_size": 16}, r"images='Task': has images of \(8, 1\) \(pixels, channels\), and .* ask for \(16, 1\)"),
    ({"seed": True}, r"seed=True: must be a whole number"),
]


def test_wrong_settings_are_one_line_before_anything_is_trained(small, source_task, target_task):
    for changed, line in WRONG:
        model = small(source=source_task)
        assert re.match(line, str(refusal(model.set_params(**changed).fit, target_task)))
        assert not hasattr(model, "ensemble_")


def test_wrong_tasks_are_one_line(small, source_task, scans, tmp_path):
    images, labels = scans
    for given, line in (
        ((7,), r"images='int': must be images and labels \(arrays, or a list of files and labels\), a Task, a loader"),
        ((images,), r"images='ndarray': must be images and labels"),
        ((images, labels[:-1]), r"labels=\(399,\): must be one for each of 400 images"),
        ((tmp_path / "nowhere",), r"path='.*nowhere': must be a folder that exists"),
        ((["nowhere.png"] * 9, [0, 1, 2] * 3), r"images='nowhere.png': cannot be read: does not exist$"),
        ((images, labels * 0), r"classes="),
        (([*images[:9], images[0, :4]], labels[:10]), r"images='list': is not an array"),
        ((images[:9], ["a", "b", None] * 3), r"labels='object': must be integers or text"),
        ((source_task, source_task), r"images='tuple': must be images and labels"),
    ):
        assert re.match(line, str(refusal(small("few").fit, *given)))


def test_wrong_labels_for_a_score_are_one_line(fitted, target_task):
    images = target_task.test.images
    with pytest.raises(SettingError, match=r"^labels=1: must be one for each of 60 images$"):
        fitted.score(images, ["5"])
    with pytest.raises(SettingError, match=r"^labels=9: must be names, or positions 0 to 4$"):
        fitted.score(images, np.full(60, 9))
    with pytest.raises(SettingError, match=r"^images=\(2, 2\): must be "):
        fitted.predict(np.zeros((2, 2)))
    with pytest.raises(SettingError, match=r"^images='list': is not an array"):
        fitted.predict([np.zeros((8, 8)), np.zeros((9, 9))])
