import gzip

import pytest
import torch
from pictures import idx
from refusals import refusal

from ensemble_transfer import MnistSample, SettingError
from ensemble_transfer.tasks.idx import FASHION, FashionMnist


@pytest.fixture(scope="module")
def digits():
    return MnistSample(train=100, validation=10, test=40).load(28, 1)


@pytest.fixture
def folder(tmp_path, digits):
    for part, split in (("train", digits.train), ("t10k", digits.test)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(split.images[:, 0]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(split.labels)))
    return tmp_path


def test_official_splits_are_read_and_kept_apart(folder, digits):
    task = FashionMnist(str(folder), validation=20).load(28, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (80, 20, 40)
    assert task.classes == FASHION
    assert task.name == "fashion"
    assert task.test.fingerprint == digits.test.fingerprint
    ours = {image.numpy().tobytes() for image in torch.cat([task.train.images, task.validation.images])}
    assert ours == {image.numpy().tobytes() for image in digits.train.images}


def test_a_missing_folder_says_where_fashion_comes_from(tmp_path):
    error = refusal(FashionMnist(str(tmp_path / "none")).load, 28, 1)
    assert error.setting == "path"
    assert "Debian's package dataset-fashion-mnist provides /usr/share/datasets/fashion-mnist" in error.rule
    assert "set path to your own copy" in error.rule


def test_labels_beyond_the_classes_are_named(folder, digits):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(digits.test.labels + 1)))
    with pytest.raises(SettingError, match=r"labels=10: must be in 0\.\.9, a position among the 10 classes"):
        FashionMnist(str(folder), validation=20).load(28, 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "train-images-idx3-ubyte cannot be read ([Errno 2] No such file"),
        (b"", "train-images-idx3-ubyte is not a whole IDX file of unsigned bytes in 3 dimensions"),
        (idx(torch.zeros(0, 4, 4)), "is not a whole IDX file"),
        (idx(torch.zeros(100, 4, 4))[:-1], "is not a whole IDX file"),
        (idx(torch.zeros(99, 4, 4)), "labels='torch.int64 (100,)': must be int64 of shape (99,)"),
    ],
)
def test_broken_files_are_named(folder, content, text):
    path = folder / "train-images-idx3-ubyte"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert text in str(refusal(FashionMnist(str(folder)).load, 28, 1))


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"no gzip"])
def test_damaged_gzip(folder, damage):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SettingError, match=r"its train-labels-idx1-ubyte\.gz cannot be read \("):
        FashionMnist(str(folder)).load(28, 1)
