import pytest
import torch
from refusals import refusal

from ensemble_transfer.tasks.task import Split, Task

IMAGES = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)


def split(count=6, channels=1, side=4, top=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % top)


def task(**changes):
    settings = {
        "name": "toy",
        "classes": ("cat", "dog"),
        "train": split(),
        "validation": split(),
        "test": split(),
    }
    return Task(**{**settings, **changes})


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), "images='torch.float32 (2, 1, 4, 4)': must be uint8 of"),
        (IMAGES[:, 0], torch.zeros(2).long(), "images='torch.uint8 (2, 4, 4)': must be uint8 of"),
        (IMAGES[:0], torch.zeros(0).long(), "(0, 1, 4, 4)': must be uint8 of shape (N, C, H, W), not"),
        (IMAGES, torch.zeros(3).long(), "labels='torch.int64 (3,)': must be int64 of shape (2,)"),
        (IMAGES, torch.zeros(2), "labels='torch.float32 (2,)': must be int64 of shape (2,)"),
        (IMAGES, torch.tensor([0, -1]), "labels=-1: must not be negative"),
    ],
)
def test_a_split_refuses_tensors_that_do_not_fit(images, labels, text):
    assert text in str(refusal(Split, images, labels))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": ("cat",)}, "classes=('cat',): must be two or more different names"),
        ({"classes": ("cat", "d\udce9")}, "must be text that UTF-8 can hold: files of a run name it"),
        ({"test": split(side=5)}, "test=(1, 5, 5): must have the shape of the training images, (1, 4, 4)"),
        ({"test": split(top=3)}, "test=2: is a label beyond the 2 classes"),
    ],
)
def test_a_task_refuses_splits_that_do_not_fit(changes, text):
    assert text in str(refusal(task, **changes))


def test_the_fingerprint_of_a_split_is_of_its_content():
    one = split()
    assert one.fingerprint == split().fingerprint
    assert len(one.fingerprint) == 64
    strided = Split(one.images.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last), one.labels)
    assert strided.fingerprint == Split(one.images.repeat(1, 3, 1, 1), one.labels).fingerprint
    reshaped = Split(one.images.reshape(6, 4, 2, 2), one.labels)
    other_label = Split(one.images, 1 - one.labels)
    other_pixel = Split(one.images.clone(), one.labels)
    other_pixel.images[-1, -1, -1, -1] ^= 1
    prints = {each.fingerprint for each in (one, reshaped, other_label, other_pixel, split(count=5))}
    assert len(prints) == 5


def test_the_fingerprint_of_a_task_sees_every_split_and_the_classes():
    changes = [
        {},
        {"train": split(seed=1)},
        {"validation": split(seed=1)},
        {"test": split(seed=1)},
        {"classes": ("dog", "cat")},
    ]
    assert len({task(**change).fingerprint for change in changes}) == 5
    assert task(name="other").fingerprint == task().fingerprint


def test_a_sealed_task_keeps_everything_but_the_test_split():
    whole = task()
    sealed = whole.sealed()
    assert sealed.fingerprint == whole.fingerprint
    assert sealed.train is whole.train
    assert len(whole.test) == 6
    for use in (len, lambda test: test.images, lambda test: test.labels):
        with pytest.raises(RuntimeError, match="was read while training or selecting"):
            use(sealed.test)
