"""Data sets of the library ``datasets``; skipped where it is not installed, but for the line that says so."""

import sys
import time
from types import ModuleType

import pytest
import torch
from PIL import Image
from refusals import refusal

from ensemble_transfer import Digits, HuggingFace
from ensemble_transfer.tasks.mapped import place_of


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        library = pytest.importorskip("datasets")
        library.disable_progress_bars()
        yield library


@pytest.fixture(scope="module")
def digits():
    return Digits(train=60, validation=12, test=20).load(8, 1)


@pytest.fixture
def saved(datasets, digits, tmp_path):
    """Write splits of real digits, and return the folder."""

    def save(label=None, names=("train", "test"), **changes):
        label = label or datasets.ClassLabel(names=[f"digit {n}" for n in range(10)])
        columns = {"img": datasets.Image(), "kind": label, "page": datasets.Value("int64")}
        parts = {}
        for name, split in zip(names, (digits.train, digits.test, digits.validation), strict=False):
            images = [Image.fromarray(image[0].numpy()) for image in split.images]
            values = {"img": images, "kind": split.labels.tolist(), "page": list(range(len(split)))}
            values |= changes.get(name, {})
            parts[name] = datasets.Dataset.from_dict(values, features=datasets.Features(columns))
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
        return str(tmp_path / "set")

    return save


def complaint(name, **settings):
    return str(refusal(HuggingFace(name, **settings).load, 8, 1).under("dataset.target"))


def test_the_library_is_asked_for_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "dataset.target.name='any/set': needs a library: pip install 'datasets>=4' (" in complaint("any/set")


def test_a_folder_that_has_the_librarys_name_is_not_taken_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    assert complaint("any/set").endswith("needs a library: pip install 'datasets>=4' (datasets is a folder here)")


def test_a_saved_set(saved, digits):
    task = HuggingFace(saved(names=("Train", "test"))).load(8, 1)
    assert task.name == "set"
    assert task.classes[3] == "digit 3"
    assert (len(task.train), len(task.validation), len(task.test)) == (51, 9, 20)
    assert task.test.fingerprint == digits.test.fingerprint


def test_splits_are_mapped(saved, digits):
    folder = saved(names=("learn", "valid", "proof"))
    assert "has no split train: set splits={train:NAME}; it has learn, valid, proof" in complaint(folder)
    task = HuggingFace(folder, splits={"train": "learn", "test": "valid", "validation": "proof"}).load(8, 1)
    assert task.test.fingerprint == digits.test.fingerprint
    assert task.validation.fingerprint == digits.validation.fingerprint
    assert "splits={'train': 'all'}: names 'all'; the data set has learn" in complaint(folder, splits={"train": "all"})


def test_a_set_without_splits_is_divided(datasets, saved, tmp_path):
    folder = saved()
    datasets.load_from_disk(folder)["train"].save_to_disk(str(tmp_path / "one"))
    assert len(HuggingFace(str(tmp_path / "one"), test=10, validation=10).load(8, 1).train) == 40


def test_columns_are_found_or_given(datasets, saved):
    folder = saved(label=datasets.Value("int64"))
    rule = "has 0 columns of the kind label: set label=COLUMN to one of img, kind, page"
    assert rule in complaint(folder)
    task = HuggingFace(folder, image="img", label="kind").load(8, 1)
    assert task.classes == tuple("0123456789")
    assert "image='kind': must be one of the columns img" in complaint(folder, image="kind", label="kind")
    assert "label='sort': must be one of the columns img, kind, page" in complaint(folder, label="sort")


def test_disk_and_memory_give_the_same_task(saved, tmp_path):
    folder = saved()
    disk = HuggingFace(folder, memory="disk", cache=str(tmp_path / "cache"))
    assert disk.load(8, 3).fingerprint == HuggingFace(folder).load(8, 3).fingerprint
    assert place_of(disk.load(8, 3).train.images) is not None


def test_broken_images_are_named_by_their_rows(saved, digits):
    images = [{"bytes": b"no image", "path": None} for _ in range(3)] + [
        Image.fromarray(image[0].numpy()) for image in digits.test.images[3:]
    ]
    folder = saved(test={"img": images})
    hint = "repair or remove them, or leave them out by broken=skip of this task, as in dataset.target.broken=skip"
    listed = "test[0] (not an image), test[1] (not an image), test[2] (not an image)"
    assert f"images that cannot be read: {listed}; {hint}" in complaint(folder)
    task = HuggingFace(folder, broken="skip").load(8, 1)
    assert torch.equal(task.test.labels, digits.test.labels[3:])


def test_a_test_split_without_labels_is_left_out(saved, caplog):
    task = HuggingFace(saved(test={"kind": [-1] * 20})).load(8, 1)
    assert len(task.train) + len(task.validation) + len(task.test) == 60
    assert "left out its test split, which has no labels" in caplog.text


def test_some_labels_missing_are_refused(saved, digits):
    labels = digits.test.labels.tolist()
    folder = saved(test={"kind": [-1, *labels[1:]]})
    assert "its test split has labels that are no class of train: ['-1']" in complaint(folder)


def test_a_folder_that_is_no_set(datasets, tmp_path):
    assert "is not a folder that save_to_disk wrote (" in complaint(str(tmp_path))


def test_no_network_is_one_line_within_seconds(datasets, monkeypatch):
    constants = sys.modules["huggingface_hub"].constants
    monkeypatch.setattr("ensemble_transfer.machine.answers", lambda _: False)
    before, started = constants.HF_HUB_OFFLINE, time.monotonic()
    assert "dataset.target.name='some/set': cannot be had from the hub (" in complaint("some/set")
    assert time.monotonic() - started < 5
    assert before == constants.HF_HUB_OFFLINE
