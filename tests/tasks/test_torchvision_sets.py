import pickle
import socket

import pytest
from pictures import idx
from refusals import refusal

from ensemble_transfer import MnistSample, SettingError
from ensemble_transfer.tasks.torchvision_sets import DATASETS, PATIENCE, TorchvisionDataset


@pytest.fixture(scope="module")
def digits():
    return MnistSample(train=100, validation=10, test=50).load(28, 1)


def write_idx(folder, parts):
    folder.mkdir(parents=True)
    for name, images, labels in parts:
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images[:, 0]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))


def local(name, root, **settings):
    return TorchvisionDataset(name, str(root), download=False, **settings)


@pytest.mark.parametrize("name", ["KMNIST", "FashionMNIST"])
def test_the_mnist_family_needs_no_network(tmp_path, digits, monkeypatch, name):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked a server"))
    parts = [
        ("train", digits.train.images, digits.train.labels),
        ("t10k", digits.test.images, digits.test.labels),
    ]
    write_idx(tmp_path / name / "raw", parts)
    task = TorchvisionDataset(name, str(tmp_path), validation=20).load(28, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (80, 20, 50)
    assert task.test.fingerprint == digits.test.fingerprint
    assert task.name == name.lower()
    assert len(task.classes) == 10
    assert task.classes[0] == {"KMNIST": "o", "FashionMNIST": "T-shirt/top"}[name]
    (tmp_path / name / "raw" / "t10k-images-idx3-ubyte").write_bytes(pickle.dumps([1]))
    with pytest.raises(SettingError, match=rf"^root='.*': {name} cannot be read \(.*\); set download=true, or root"):
        local(name, tmp_path).load(28, 1)


def test_emnist_letters_are_turned_upright_and_count_from_0(tmp_path, digits):
    parts = [
        (f"emnist-letters-{part}", split.images.mT, split.labels + 1)
        for part, split in (("train", digits.train), ("test", digits.test))
    ]
    write_idx(tmp_path / "EMNIST" / "raw", parts)
    task = local("EMNIST", tmp_path, classes=list("abcdefghij")).load(28, 1)
    assert task.test.fingerprint == digits.test.fingerprint
    assert task.classes == tuple("abcdefghij")


@pytest.mark.parametrize("name", [*DATASETS])
def test_missing_data_is_one_line(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        assert socket.getdefaulttimeout() == PATIENCE
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for download, rule in ((True, "can neither be read nor downloaded ("), (False, "; set download=true, or root to")):
        error = refusal(TorchvisionDataset(name, str(tmp_path), download=download).load, 32, 3)
        assert error.setting == "root"
        assert f"{name} can" in error.rule
        assert rule in error.rule
        assert "argument" not in error.rule
    assert socket.getdefaulttimeout() is None


def test_names_are_checked_at_once():
    with pytest.raises(SettingError, match="name='CIFAR': must be one of CIFAR10, CIFAR100, DTD, EMNIST"):
        TorchvisionDataset("CIFAR")
