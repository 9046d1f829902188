import logging
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from PIL import Image
from refusals import refusal

from ensemble_transfer import Digits, ImageFolder, SettingError
from ensemble_transfer.tasks.folder import image_files
from ensemble_transfer.tasks.pictures import decoded, files

CLASSES = ("zero", "één", "二")


@pytest.fixture(scope="module")
def digits():
    """Real scans of 0, 1 and 2: 20 of each, (20, 8, 8) uint8 by class."""
    task = Digits(train=500, validation=10, test=10, classes=["0", "1", "2"]).load(8, 1)
    return [task.train.images[task.train.labels == label][:20, 0].numpy() for label in range(3)]


def write(folder, digits, classes=CLASSES, part=slice(None)):
    for name, images in zip(classes, digits, strict=False):
        write_pictures(folder / name, images[part])
    return folder


@pytest.fixture
def pool(tmp_path, digits):
    return write(tmp_path / "scans", digits)


@pytest.fixture
def divided(tmp_path, digits):
    root = tmp_path / "scans"
    for name, part in (("train", slice(0, 10)), ("val", slice(10, 14)), ("test", slice(14, 20))):
        write(root / name, digits, part=part)
    return root


def complaint(folder, **settings):
    error = refusal(ImageFolder(str(folder), **settings).load, 8, 1)
    assert error.setting == "path"
    return str(error)


def read(paths, size, channels):
    return decoded(files(paths), size, channels)


def contents(split):
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)]


def test_a_folder_of_classes_is_divided(pool, digits):
    task = ImageFolder(str(pool), test=15, validation=9).load(8, 1)
    assert task.name == "scans"
    assert task.classes == ("zero", "één", "二")
    assert (len(task.train), len(task.validation), len(task.test)) == (36, 9, 15)
    assert torch.bincount(task.test.labels).tolist() == [5, 5, 5]
    expected = [(image.tobytes(), label) for label, images in enumerate(digits) for image in images]
    assert sorted(contents(task.train) + contents(task.validation) + contents(task.test)) == sorted(expected)


def test_train_validation_and_test_folders_stay_apart_and_a_test_folder_may_lack_a_class(divided, digits):
    task = ImageFolder(str(divided)).load(8, 1)
    assert (len(task.train), len(task.validation), len(task.test)) == (30, 12, 18)
    expected = [(image.tobytes(), label) for label, images in enumerate(digits) for image in images[14:20]]
    assert contents(task.test) == expected  # in the order of the names
    shutil.rmtree(divided / "test" / "één")
    assert torch.bincount(ImageFolder(str(divided)).load(8, 1).test.labels).tolist() == [6, 0, 6]


@pytest.mark.parametrize(
    "names", [("Train", "Val", "Test"), ("training", "valid", "testing"), ("TRAIN", "val", "TEST")]
)
def test_folders_of_splits_are_known_in_any_spelling(divided, names):
    expected = ImageFolder(str(divided)).load(8, 1)
    for folder, name in zip(("train", "val", "test"), names, strict=True):
        (divided / folder).rename(divided / f"then_{name}")
        (divided / f"then_{name}").rename(divided / name)
    task = ImageFolder(str(divided)).load(8, 1)
    assert task.classes == expected.classes
    assert contents(task.test) == contents(expected.test)


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_searched(pool, monkeypatch):
    iterdir = Path.iterdir

    def locked(self):
        if self.name == "één":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", locked)
    told = []
    assert {path.parent.name for path in image_files(pool, told.append)} == {"zero", "二"}
    assert [(error.filename, error.strerror) for error in told] == [(str(pool / "één"), "Permission denied")]
    with pytest.raises(PermissionError):
        list(image_files(pool))


def test_nested_folders_links_and_hidden_files(pool, tmp_path):
    plain = ImageFolder(str(pool)).load(8, 1).fingerprint
    zero = pool / "zero"
    (zero / "19").mkdir()
    shutil.move(zero / "19.png", zero / "19" / "nested.png")
    shutil.move(zero / "00.png", tmp_path / "elsewhere.png")
    (zero / "00.png").symlink_to(tmp_path / "elsewhere.png")
    shutil.move(pool / "二", tmp_path / "two")
    (pool / "二").symlink_to(tmp_path / "two", target_is_directory=True)
    (zero / "round").symlink_to(pool, target_is_directory=True)
    for hidden in (zero / ".DS_Store", zero / "._01.png", pool / "notes.txt", zero / "notes.txt"):
        hidden.write_text("no image")
    (pool / ".git").mkdir()
    assert ImageFolder(str(pool)).load(8, 1).fingerprint == plain


def test_an_image_that_a_link_leads_to_again_is_used_once(pool, caplog):
    plain, zero = ImageFolder(str(pool)).load(8, 1), pool / "zero"
    (zero / "~again").symlink_to(zero / "more", target_is_directory=True)
    (zero / "more").mkdir()
    for name in ("00.png", "01.png"):
        shutil.move(zero / name, zero / "more" / name)
    (zero / "~02.png").hardlink_to(zero / "02.png")
    task = ImageFolder(str(pool)).load(8, 1)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [
        len(split) for split in (plain.train, plain.validation, plain.test)
    ]
    assert "3 of 63 images are there twice, by links; each is used once" in caplog.text


def test_any_size_and_mode(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    gradient = Image.linear_gradient("L").resize((60, 40))
    wide = Image.fromarray(np.asarray(gradient).astype(np.uint16) * 257)
    pictures = {
        "gray.png": gradient,
        "rgb.webp": gradient.convert("RGB"),
        "palette.GIF": gradient.convert("RGB").quantize(256),
        "cmyk.tif": gradient.convert("CMYK"),
        "wide.tiff": wide,
        "rgb.jpg": gradient.convert("RGB").resize((600, 400)),
    }
    for name, picture in pictures.items():
        picture.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    images, broken = read([folder / name for name in pictures], 16, 3)
    assert broken == {}
    assert images.shape == (6, 3, 16, 16)
    difference = (images.int() - images[:1].int()).abs().amax((1, 2, 3))
    assert difference[:-1].max() <= 1
    assert difference[-1] <= 6  # drawn larger, then JPEG


def test_pictures_stand_upright(tmp_path, digits):
    picture = Image.fromarray(digits[2][0])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise
    picture.rotate(90).save(tmp_path / "turned.png", exif=exif)
    picture.save(tmp_path / "upright.png")
    images, _ = read([tmp_path / "turned.png", tmp_path / "upright.png"], 8, 1)
    assert torch.equal(images[0], images[1])
    exif[0x011A] = "72"  # a resolution as text: Pillow cannot write it anew
    picture.rotate(90).convert("RGB").save(tmp_path / "odd.jpg", quality=100, exif=with_text(exif))
    [odd], _ = read([tmp_path / "odd.jpg"], 8, 1)
    assert (odd.int() - images[0].int()).abs().max() <= 4


def with_text(exif):
    """Return EXIF of two tags, the orientation and a resolution as text, which Pillow reads and does not write."""
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, exif[0x0112], 0)
    resolution = struct.pack("<HHI", 0x011A, 2, 3) + exif[0x011A].encode() + b"\0\0"
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + bytes(4)


def oversized(side):
    """Return a small PNG whose head claims more pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damage(pool):
    whole = (pool / "zero" / "05.png").read_bytes()
    (pool / "zero" / "01.png").write_bytes(b"")
    (pool / "zero" / "02.png").write_bytes(whole[: len(whole) * 2 // 3])
    (pool / "zero" / "03.png").write_text("no image")
    (pool / "zero" / "04.png").write_bytes(oversized(20000))  # Pillow raises
    (pool / "zero" / "06.png").write_bytes(oversized(10000))  # Pillow warns
    (pool / "één" / "00.png").unlink()
    (pool / "één" / "00.png").symlink_to(pool / "nowhere.png")
    Image.new("F", (8, 8)).save(pool / "二" / "float.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as in production, not as in tests
def test_broken_images_are_fatal_and_named_or_skipped_by_choice(pool, caplog):
    damage(pool)
    text = complaint(pool)
    for part in (
        "images that cannot be read: zero/01.png (not an image), zero/02.png (",
        "zero/03.png (not an image), zero/04.png (more than 89478485 pixels), ",
        "zero/06.png (more than 89478485 pixels), één/00.png",
        "één/00.png (does not exist), 二/float.tif (32-bit float pixels have no agreed range)",
        "; repair or remove them, or leave them out by broken=skip of this task, as in dataset.target.broken=skip",
    ):
        assert part in text
    with caplog.at_level(logging.WARNING):
        task = ImageFolder(str(pool), broken="skip").load(8, 1)
    assert len(task.train) + len(task.validation) + len(task.test) == 54
    assert "left out 7 images that cannot be read: zero/01.png (not an image), " in caplog.text


def test_a_class_folder_whose_name_is_not_utf_8_is_refused(pool):
    (pool / "zero").rename(os.fsdecode(os.fsencode(pool) + b"/caf\xe9"))
    with pytest.raises(SettingError, match=r"classes='caf\\udce9': must be text that UTF-8 can hold"):
        ImageFolder(str(pool)).load(8, 1)


def test_folders_that_are_no_task(tmp_path, pool, digits):
    assert "must be a folder that exists" in complaint(tmp_path / "nowhere")
    assert "must be a folder that exists" in complaint(pool / "zero" / "00.png")
    assert "must hold two or more folders of images, one for each class" in complaint(pool / "zero")
    write(tmp_path / "one", digits[:1])
    assert "one for each class; it holds zero" in complaint(tmp_path / "one")
    (pool / "none").mkdir()
    assert "its class folder 'none' (train) holds no image (.bmp, .gif, .jpeg" in complaint(pool)


def test_split_folders_that_do_not_fit(divided, digits, caplog):
    write(divided / "test", digits[:1], classes=("novel",))
    assert "its test folder has the class 'novel', which the train folder lacks" in complaint(divided)
    shutil.rmtree(divided / "test" / "novel")
    shutil.copytree(divided / "val", divided / "validation")
    assert "one validation folder; it has test, train, val, validation" in complaint(divided)
    shutil.rmtree(divided / "validation")
    (divided / "extra").mkdir()
    ImageFolder(str(divided)).load(8, 1)
    assert "passed over the folders beside test, train, val: extra" in caplog.text
    (divided / "extra").rmdir()
    shutil.rmtree(divided / "train")
    assert "must hold a train folder, and one validation folder; it has test, val" in complaint(divided)


def test_photos_of_a_kind_that_cannot_be_read_are_told_and_not_passed_over(pool):
    (pool / "zero" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    shutil.copy(pool / "zero" / "00.png", pool / "zero" / "saved.jfif")
    assert "images that cannot be read: zero/IMG_1.HEIC (not an image); " in complaint(pool)
    task = ImageFolder(str(pool), broken="skip").load(8, 1)
    assert len(task.train) + len(task.validation) + len(task.test) == 61


def test_a_folder_of_a_split_without_classes_and_one_that_becomes_a_class_are_told(divided, digits, caplog):
    shutil.rmtree(divided / "test")
    write_pictures(divided / "test", digits[0][:3])
    ImageFolder(str(divided)).load(8, 1)
    assert "its test folder has no folder of a class, and is not used" in caplog.text
    shutil.rmtree(divided / "test")
    (divided / "val").rename(divided / "unlabelled")
    assert ImageFolder(str(divided)).load(8, 1).classes == ("train", "unlabelled")
    assert "train is taken for a class, as unlabelled; move what is no class away" in caplog.text


def test_pictures_that_become_nearly_black_are_told(tmp_path, digits, caplog):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for place, image in enumerate(digits[0]):  # 12 bits of 16
            Image.fromarray(image.astype(np.uint16) * 16).save(tmp_path / name / f"{place}.tif")
    ImageFolder(str(tmp_path)).load(8, 1)
    assert re.search(r"images are nearly black, 1\d of 255 at most \(of 16 bits the upper 8 count\)", caplog.text)


def test_pictures_whose_endings_are_not_read_are_counted_once(pool, caplog):
    for name in ("zero/a.jp2", "één/b.JP2", "één/more/c.jxl", "één/notes.txt"):
        (pool / name).parent.mkdir(exist_ok=True)
        (pool / name).write_bytes(b"")
    ImageFolder(str(pool)).load(8, 1)
    [line] = [message for message in caplog.messages if "not read" in message]
    assert "2 .jp2, 1 .jxl" in line
