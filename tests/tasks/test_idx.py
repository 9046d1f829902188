import gzip

import pytest
import torch

from ensemble_transfer.errors import SettingError
from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.tasks.idx import FASHION, FashionMnist, IdxFolder


def idx(tensor):
    head = bytes((0, 0, 8, tensor.ndim)) + b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return head + tensor.to(torch.uint8).numpy().tobytes()


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
    task = IdxFolder(str(folder), validation=20).load(28, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (80, 20, 40)
    assert task.classes == tuple("0123456789")
    assert task.name == folder.name
    assert task.test.fingerprint == digits.test.fingerprint
    ours = {image.numpy().tobytes() for image in torch.cat([task.train.images, task.validation.images])}
    assert ours == {image.numpy().tobytes() for image in digits.train.images}


def test_class_names(folder):
    assert FashionMnist(str(folder)).load(28, 1).classes == FASHION
    assert FashionMnist(str(folder), classes=["Coat", "Bag"]).load(28, 1).classes == ("Coat", "Bag")
    names = [f"number {digit}" for digit in range(10)]
    assert IdxFolder(str(folder), names).load(28, 1).classes == tuple(names)
    with pytest.raises(SettingError, match=r"class_names=\['a', 'b'\]: must name the label 9"):
        IdxFolder(str(folder), ["a", "b"]).load(28, 1)


def test_a_missing_folder_says_where_fashion_comes_from(tmp_path):
    with pytest.raises(SettingError) as caught:
        FashionMnist(str(tmp_path / "none")).load(28, 1)
    assert caught.value.setting == "path"
    assert "Debian's package dataset-fashion-mnist provides /usr/share/datasets/fashion-mnist" in str(caught.value)
    assert "set path to your own copy" in str(caught.value)
    with pytest.raises(SettingError, match="must be a folder with IDX files"):
        IdxFolder(str(tmp_path / "none")).load(28, 1)


def test_a_missing_file_is_named(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(SettingError, match=r"has no file t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz"):
        IdxFolder(str(folder)).load(28, 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "train-images-idx3-ubyte is not an IDX file of unsigned bytes in 3 dimensions"),
        (bytes((0, 0, 8, 3, 0, 0)), "train-images-idx3-ubyte is not an IDX file of unsigned bytes"),
        (idx(torch.zeros(0, 4, 4)), "in 3 dimensions, none of them 0"),
        (idx(torch.zeros(100, 4, 4))[:-1], "holds 1599 bytes where its header says [100, 4, 4]"),
        (idx(torch.zeros(99, 4, 4)), "has 99 train images but 100 labels"),
    ],
)
def test_broken_files_are_named(folder, content, text):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(SettingError) as caught:
        IdxFolder(str(folder)).load(28, 1)
    assert text in str(caught.value)
    assert str(caught.value).startswith("path=")


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"no gzip"])
def test_damaged_gzip(folder, damage):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SettingError, match=r"its train-labels-idx1-ubyte\.gz cannot be read \("):
        IdxFolder(str(folder)).load(28, 1)
