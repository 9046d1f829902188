import numpy as np
import pytest
from refusals import refusal

from ensemble_transfer import Digits, Npz, SettingError


@pytest.fixture(scope="module")
def digits():
    task = Digits(train=100, validation=20, test=50).load(8, 1)
    return task.test.images[:, 0].numpy(), task.test.labels.numpy()


@pytest.fixture
def load(tmp_path):
    def load(settings=None, size=8, channels=1, **arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return Npz(str(tmp_path / "own.npz"), **(settings or {})).load(size, channels)

    return load


def contents(task):
    return {
        (image.numpy().tobytes(), int(label))
        for split in (task.train, task.validation, task.test)
        for image, label in zip(split.images, split.labels, strict=True)
    }


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_official_splits_are_kept(load, digits, validation):
    images, labels = digits
    named = {"train": slice(0, 30), validation: slice(30, 40), "test": slice(40, 50)}
    arrays = {f"{name}_images": images[part] for name, part in named.items()}
    arrays |= {f"{name}_labels": labels[part, None].astype(np.uint8) for name, part in named.items()}  # as MedMNIST
    arrays["classes"] = np.array(list("abcdefghij"))
    task = load(**arrays)
    assert (len(task.train), len(task.validation), len(task.test)) == (30, 10, 10)
    assert np.array_equal(task.test.images[:, 0].numpy(), images[40:])
    assert task.validation.labels.tolist() == labels[30:40].tolist()
    assert task.classes == tuple("abcdefghij")


def test_a_file_of_medmnist_is_read_as_it_comes(load, digits):
    gray, labels = digits
    colour = np.stack([gray, 255 - gray, gray // 2], -1)  # (N, H, W, 3) uint8, labels (N, 1) uint8, no names of classes
    parts = {"train": slice(0, 30), "val": slice(30, 40), "test": slice(40, 50)}
    arrays = {f"{name}_images": colour[part] for name, part in parts.items()}
    task = load(
        {"train": 20}, 8, 3, **arrays, **{f"{n}_labels": labels[p, None].astype(np.uint8) for n, p in parts.items()}
    )
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 10, 10)
    assert np.array_equal(task.validation.images.permute(0, 2, 3, 1).numpy(), colour[30:40])
    assert task.classes == tuple(map(str, sorted(set(labels.tolist()))))
    assert [task.classes[label] for label in task.test.labels] == [str(label) for label in labels[40:]]


def test_labels_may_be_text_or_any_numbers(load, digits):
    images, labels = digits
    words = np.where(labels < 5, "low", "high")
    task = load(images=images, labels=words)
    assert task.classes == ("high", "low")
    assert contents(task) == {(image.tobytes(), int(low)) for image, low in zip(images, labels < 5, strict=True)}
    assert load(images=images, labels=np.where(labels < 5, -3, 70)).classes == ("-3", "70")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": None}, "holds images without labels"),
        ({"images": None, "labels": None}, "must hold images and labels, or train_images"),
        ({"images": np.full((50, 8, 8), np.nan)}, "its images must be floats in [0, 1], not from nan to nan"),
        ({"images": np.zeros((50, 8, 8, 4), np.uint8)}, "C 1 or 3, not (50, 8, 8, 4)"),
        ({"classes": np.array(["a", "b"])}, "its labels must be one of the 2 classes, not [2]"),
        (
            {"classes": np.array(["a", "b"], object)},
            "array 'classes' cannot be read: it holds objects",
        ),
        ({"test_images": np.zeros((2, 8, 8), np.uint8)}, "holds test_images without test_labels"),
        (
            {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(2, int)},
            "holds train_images beside images, which are train images too",
        ),
    ],
)
def test_what_does_not_fit_is_named(load, digits, change, text):
    arrays = {"images": digits[0], "labels": digits[1], **change}
    error = refusal(load, **{key: array for key, array in arrays.items() if array is not None})
    assert text in str(error)
    assert error.setting == "path"


def test_files_that_are_no_archive(tmp_path, digits):
    missing, text, array, cut = (tmp_path / name for name in ("none.npz", "text.npz", "array.npz", "cut.npz"))
    text.write_text("images")
    np.save(tmp_path / "array.npy", digits[0])
    (tmp_path / "array.npy").rename(array)
    np.savez_compressed(cut, images=digits[0], labels=digits[1])
    cut.write_bytes(cut.read_bytes()[:300])
    for path in (missing, text, array, cut):
        with pytest.raises(SettingError, match=r"must be an \.npz file that exists"):
            Npz(str(path)).load(8, 1)


def test_a_damaged_array_is_refused(tmp_path, digits):
    path = tmp_path / "own.npz"
    np.savez(path, images=digits[0], labels=digits[1])
    content = bytearray(path.read_bytes())
    content[600] ^= 255
    path.write_bytes(content)
    with pytest.raises(SettingError, match=r"'images' cannot be read: Bad CRC-32"):
        Npz(str(path)).load(8, 1)
