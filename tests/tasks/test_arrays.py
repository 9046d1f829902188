import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal
from sklearn.datasets import load_digits

from ensemble_transfer import Npz, task_from_arrays


@pytest.fixture(scope="module")
def digits():
    scans = load_digits()
    return np.rint(scans.images * (255 / 16)).astype(np.uint8)[:300], scans.target[:300]


def test_numpy_and_torch_of_every_layout_give_the_same_task(digits):
    images, labels = digits
    wanted = task_from_arrays("own", images, labels).fingerprint
    for other in (
        torch.from_numpy(images),
        images[:, None],
        images[..., None],
        images / 255,
        torch.from_numpy(images) / 255,
    ):
        assert task_from_arrays("own", other, torch.from_numpy(labels)).fingerprint == wanted
    assert task_from_arrays("own", images, labels.tolist()).fingerprint == wanted


def test_classes_have_the_order_and_the_names_given(digits, tmp_path):
    images, labels = digits
    words = np.where(labels < 5, "low", "high")
    by_name = task_from_arrays("own", images, words, classes=["low", "high"])
    by_position = task_from_arrays("own", images, (labels >= 5).astype(int), classes=["low", "high"])
    column = task_from_arrays("own", images, words.astype(object), classes=["low", "high"])  # as of a data frame
    assert by_name.classes == ("low", "high")
    assert by_name.fingerprint == by_position.fingerprint == column.fingerprint
    assert task_from_arrays("own", images, words).classes == ("high", "low")
    np.savez(tmp_path / "own.npz", images=images, labels=words, classes=np.array(["low", "high"]))
    assert Npz(str(tmp_path / "own.npz")).load(8, 1).fingerprint == by_name.fingerprint


def test_arrays_are_divided_by_every_setting_of_a_task(digits):
    folds = [task_from_arrays("own", *digits, folds=3, fold=fold, per_class=2) for fold in range(3)]
    assert [len(task.test) for task in folds] == [100, 100, 100]
    assert {len(task.train) for task in folds} == {20}


def test_images_become_square_and_of_the_size_asked_for(digits):
    images, labels = digits
    wide = np.pad(images, ((0, 0), (0, 0), (2, 2)))
    square = task_from_arrays("own", np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape), labels)
    assert torch.equal(task_from_arrays("own", wide, labels).test.images, square.test.images)
    assert task_from_arrays("own", images, labels, image_size=16).test.images.shape[1:] == (1, 16, 16)
    coloured = np.repeat(images[..., None], 3, axis=-1)
    assert task_from_arrays("own", coloured, labels).test.images.shape[1:] == (3, 8, 8)


@pytest.mark.parametrize(
    ("change", "setting", "text"),
    [
        ({"images": np.zeros((300, 64), np.uint8)}, "images", "must be (N, H, W), (N, H, W, C) or (N, C, H, W)"),
        ({"images": np.zeros((300, 8, 3), np.uint8)}, "images", "several images; one is given as images[None]"),
        ({"images": np.full((300, 8, 8), 16.0)}, "images", "'from 16 to 16': must be floats in [0, 1]"),
        ({"images": [[1, 2], [3]]}, "images", "is not an array"),
        ({"labels": np.zeros(300)}, "labels", "'float64': must be integers or text"),
        ({"labels": [*(["cat", "dog"] * 149), "cat", float("nan")]}, "labels", "'object': must be integers or text"),
        ({"labels": pd.Series([*(["cat", "dog"] * 149), "cat", None])}, "labels", "'object': must be integers or text"),
        ({"test": 301}, "test", "asks for 301 images"),
        ({"image_size": 4}, "image_size", "must be 8 to 4096 pixels"),
    ],
)
def test_what_does_not_fit_is_named(digits, change, setting, text):
    arguments = {"name": "own", "images": digits[0], "labels": digits[1], **change}
    error = refusal(task_from_arrays, **arguments)
    assert error.setting == setting
    assert text in str(error)
