"""Images in memory and on disk: the same task either way, decoded once."""

import logging
import os
import pickle
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import write_pictures
from PIL import Image

from ensemble_transfer import ImageFolder, MnistSample, SettingError
from ensemble_transfer.tasks import mapped, picture_loader, pictures
from ensemble_transfer.tasks import task as task_module
from ensemble_transfer.tasks.arrays import image_array
from ensemble_transfer.tasks.chosen import ChosenImages, parts
from ensemble_transfer.tasks.corruptions import corrupt
from ensemble_transfer.tasks.mapped import place_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """120 real digits in 10 folders, as JPEGs."""
    root = tmp_path_factory.mktemp("photos")
    split = MnistSample(train=120, validation=10, test=10).load(28, 1).train
    write_pictures(root, split.images, [f"digit {label}" for label in split.labels], "jpg")
    return root


@pytest.fixture
def on_disk(photos, tmp_path):
    return ImageFolder(str(photos), memory="disk", cache=str(tmp_path / "cache"))


@pytest.fixture
def decodings(monkeypatch):
    """The pictures that are decoded from now on."""
    seen, plain = [], pictures._pixels
    monkeypatch.setattr(pictures, "_pixels", lambda *arguments: (seen.append(1), plain(*arguments))[1])
    return seen


def is_mapped(split):
    return place_of(split.images) is not None


@pytest.mark.parametrize(
    "settings", [{}, {"seed": 1, "train": 40}, {"rotate": 30}, {"classes": ["digit 7", "digit 1"], "per_class": 5}]
)
def test_the_same_task_from_memory_and_from_disk(on_disk, settings, monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK", 3000)  # some images at a time
    disk = replace(on_disk, **settings).load(16, 3)
    ram = replace(on_disk, memory="ram", **settings).load(16, 3)
    for one, other in ((disk.train, ram.train), (disk.validation, ram.validation), (disk.test, ram.test)):
        assert is_mapped(one) == ("rotate" not in settings)
        assert not is_mapped(other)
        assert torch.equal(one.images.to("cpu"), other.images)
        assert torch.equal(one.labels, other.labels)
    assert disk.fingerprint == ram.fingerprint


def test_images_are_decoded_once_for_all_loads_and_anew_where_a_file_changed(photos, tmp_path, decodings, caplog):
    root = tmp_path / "copy"
    shutil.copytree(photos, root)
    source = ImageFolder(str(root), memory="disk", cache=str(tmp_path / "cache"))
    before = source.load(16, 1).fingerprint
    assert source.load(16, 1).fingerprint == before
    replace(source, seed=5, train=20).load(16, 1)
    assert len(decodings) == 120
    source.load(17, 1)
    source.load(16, 3)
    assert len(decodings) == 360
    broken = sorted(root.rglob("*.jpg"))[7]
    broken.write_bytes(broken.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(SettingError, match=f"{broken.name} \\("):
            source.load(16, 1)
    assert len(decodings) == 480
    skipped = replace(source, broken="skip")
    assert before != skipped.load(16, 1).fingerprint == replace(skipped, memory="ram").load(16, 1).fingerprint
    assert sum("left out 1 image that" in message for message in caplog.messages) == 2


def test_files_that_have_changed_places_are_decoded_again_though_size_and_time_are_the_same(photos, tmp_path):
    root = tmp_path / "copy"
    for label, source in zip("ab", sorted(path for path in photos.iterdir() if path.is_dir())[:2], strict=True):
        for number, file in enumerate(sorted(source.iterdir())[:20]):
            with Image.open(file) as picture:
                (root / label).mkdir(parents=True, exist_ok=True)
                picture.convert("RGB").resize((16, 16)).save(root / label / f"{number:02}.bmp")
            os.utime(root / label / f"{number:02}.bmp", (0, 0))
    disk = ImageFolder(str(root), memory="disk", cache=str(tmp_path / "cache"))
    before = disk.load(16, 1)
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (root / old).rename(root / new)
    assert before.fingerprint != disk.load(16, 1).fingerprint == replace(disk, memory="ram").load(16, 1).fingerprint


DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "longer": lambda whole: whole + b"\0" * 100,
    "flipped pixels": lambda whole: whole[:-5] + bytes([whole[-5] ^ 16]) + whole[-4:],
    "another header": lambda whole: whole.replace(b"16, 16", b"8, 32 ", 1).replace(b'"sha256"', b'"sha255"'),
}


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_noticed_and_made_again(on_disk, tmp_path, decodings, damage, suffix, caplog):
    before = on_disk.load(16, 1)
    files = sorted((tmp_path / "cache").glob(f"*.{suffix}"))
    assert files
    for path in files:
        whole = path.read_bytes()
        assert DAMAGES[damage](whole) != whole
        path.unlink()  # what is mapped still from it stays whole
        path.write_bytes(DAMAGES[damage](whole))
    with caplog.at_level(logging.WARNING):
        again = on_disk.load(16, 1)
    assert torch.equal(again.test.images.to("cpu"), before.test.images.to("cpu"))
    assert again.fingerprint == before.fingerprint
    assert len(decodings) == 240
    assert sum("is damaged; it is made again" in message for message in caplog.messages) >= len(files)


def test_an_interrupted_decoding_leaves_nothing_behind(on_disk, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            on_disk.load(16, 1)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    on_disk.load(16, 1)


@pytest.mark.parametrize(("free", "expected"), [(10**9, False), (120 * 16 * 16 * 3, True)])
def test_auto_goes_to_disk_where_memory_is_short(on_disk, monkeypatch, free, expected):
    with pytest.raises(SettingError, match="memory='gpu': must be auto, ram or disk"):
        replace(on_disk, memory="gpu")
    monkeypatch.setattr(picture_loader, "free_memory", lambda: free)
    assert is_mapped(replace(on_disk, memory="auto").load(16, 1).train) == expected


def test_slow_decoding_hints_at_the_disk(on_disk, monkeypatch, caplog):
    caplog.set_level("INFO")
    replace(on_disk, memory="ram").load(16, 1)
    assert "memory=disk" not in caplog.text
    monkeypatch.setattr(picture_loader, "SLOW_DECODING", 0.0)
    replace(on_disk, memory="ram").load(16, 1)
    assert "decoding 120 images took 0 s; memory=disk of this task" in caplog.text


def test_a_folder_without_room_or_rights(on_disk, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"cache='.*file/below': must be a folder that can be written: Not a dir"):
        replace(on_disk, cache=str(tmp_path / "file" / "below")).load(16, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(SettingError, match=r"needs 0.0 GiB for the decoded images, and 0.0 GiB are free"):
        on_disk.load(16, 1)


def test_splits_folds_and_seeds_share_one_file(on_disk, tmp_path):
    changes = [{}, {"seed": 3}, {"train": 20}, {"folds": 3, "fold": 1}, {"classes": ["digit 1", "digit 7"]}]
    tasks = [replace(on_disk, **change).load(16, 1) for change in changes]
    [file] = (tmp_path / "cache").glob("*.npy")
    assert {place_of(split.images).file for task in tasks for split in (task.train, task.test)} == {file}
    assert len({task.fingerprint for task in tasks}) == len(tasks)


def test_chosen_images_are_used_as_a_tensor_is(on_disk):
    chosen = on_disk.load(16, 1).train.images
    plain, index = chosen.read(), torch.tensor([5, 0, 7])
    for use in (
        lambda x: x[index],
        lambda x: x[index[:2].reshape(2, 1)],
        lambda x: x[2:9:3].to("cpu"),
        lambda x: x[-1],
        lambda x: x[plain[:, 0, 0, 0] == plain[0, 0, 0, 0]],
        lambda x: x.index_select(0, index),
        lambda x: [*parts(x, 11)][-1].to("cpu"),
        lambda x: pickle.loads(pickle.dumps(x)).to("cpu"),
        lambda x: deepcopy(x)[3:4].to("cpu"),
        lambda x: torch.cat([*mapped.chunks(x)]),
        lambda x: torch.from_numpy(image_array("images", x)),
        lambda x: corrupt(x, "gaussian_noise", 3),
        lambda x: corrupt(x, "brightness", 1),
    ):
        assert torch.equal(use(chosen), use(plain))
    assert all(isinstance(part, ChosenImages) for part in (*parts(chosen, 11), chosen[2:9:3]))
    for name in ("shape", "ndim", "dtype", "nbytes"):
        assert getattr(chosen, name) == getattr(plain, name)
    assert (chosen.numel(), chosen.element_size()) == (plain.numel(), plain.element_size())


def test_the_fingerprint_is_kept_beside_the_file_and_a_damaged_one_is_computed_again(on_disk, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(task_module, "chunks", lambda images: read.append(len(images)) or mapped.chunks(images))
    first = on_disk.load(16, 1)
    known = first.fingerprint
    whole = len(first.train) + len(first.validation) + len(first.test)
    assert sum(read) == 4 * whole  # images and labels, of what was found and of the three splits
    read.clear()
    assert on_disk.load(16, 1).fingerprint == known
    assert not read
    assert (
        replace(on_disk, seed=1).load(16, 1).fingerprint
        == replace(on_disk, seed=1, memory="ram").load(16, 1).fingerprint
    )
    [beside] = (tmp_path / "cache").glob("*.fingerprints")
    read.clear()
    for damage in (
        lambda text: re.sub(" [0-9a-f]{64} ", f" {'0' * 64} ", text),
        lambda text: text[: len(text) // 7],
        lambda _: "\x00 \n 1 2 3\n",
    ):
        beside.write_text(damage(beside.read_text()))
        assert on_disk.load(16, 1).fingerprint == known
        assert read
        read.clear()


def test_another_process_maps_the_same_images(on_disk):
    for images in (on_disk.load(16, 1).train.images, on_disk.load(16, 1).train.images.images[3:40]):
        place = pickle.loads(pickle.dumps(place_of(images)))
        assert torch.equal(place.open().to("cpu"), images.to("cpu"))
    assert place_of(torch.zeros(1)) is None


@pytest.mark.parametrize(("size", "channels", "colour"), [(28, 1, True), (28, 1, False), (64, 1, True), (64, 3, True)])
def test_pictures_that_lose_colours_or_detail_are_said_once(tmp_path, caplog, size, channels, colour):
    noise = np.random.default_rng(0).integers(256, size=(12, 128, 128, 1), dtype=np.uint8).repeat(3, axis=-1)
    pixels = (noise * np.array([1, 0.6, 0.3] if colour else [1, 1, 1])).astype(np.uint8)
    write_pictures(tmp_path, pixels, ["left", "right"] * 6)
    ImageFolder(str(tmp_path)).load(size, channels)
    said = " ".join(record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert ("in colour become gray (dataset.channels=3" in said) == (colour and channels == 1)
    assert ("of about 128 pixels become 28 (dataset.image_size=64" in said) == (size == 28)
    assert said.count("images ") <= 1
