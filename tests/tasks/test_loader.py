import pytest
import torch
from refusals import refusal

from ensemble_transfer.tasks.limits import whence
from ensemble_transfer.tasks.loader import Collection, TaskLoader
from ensemble_transfer.tasks.task import Split

CLASSES = ("ant", "bee", "cow", "dog")


def numbered(count, start=0, classes=4):
    """Images that carry their own number in the first pixels, so that they can be followed."""
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(start, start + count) % 256
    images[:, 0, 0, 1] = torch.arange(start, start + count) // 256
    return Split(images, torch.arange(count) % classes)


def numbers(split):
    return (split.images[:, 0, 0, 0].int() + 256 * split.images[:, 0, 0, 1].int()).tolist()


def make(data=None, size=8, channels=1, **settings):
    return TaskLoader(**settings).make_task("toy", data or Collection(CLASSES, numbered(400)), size, channels)


APART = Collection(CLASSES, numbered(100), test=numbered(80, classes=2))
"""Data with test images of its own, of two of the classes."""


def test_without_settings_20_and_15_percent_are_held_out():
    task = make()
    assert (len(task.train), len(task.validation), len(task.test)) == (260, 60, 80)
    everything = [number for split in (task.train, task.validation, task.test) for number in numbers(split)]
    assert sorted(everything) == list(range(400))


def test_the_origin_of_a_task_is_that_of_all_images_whatever_is_drawn_of_them():
    draws = {}, {"seed": 1}, {"folds": 5, "fold": 2}, {"train": 100}, {"per_class": 3}, {"classes": ["ant", "bee"]}
    one, *same = (make(**settings).origin for settings in draws)
    assert set(same) == {one}
    images = numbered(400)
    labels, pixels = images.labels.flip(0), images.images.clone()
    pixels[399, 0, 7, 7] = 1
    others = [Split(images.images, labels), Split(pixels, images.labels), Split(images.images[1:], images.labels[1:])]
    assert len({one, *(make(Collection(CLASSES, other)).origin for other in others)}) == 4


def test_official_splits_stay_apart():
    data = Collection(CLASSES, numbered(100), numbered(40, start=300), numbered(80, start=500))
    task = make(data)
    assert sorted(numbers(task.train)) == list(range(100))
    assert numbers(task.validation) == list(range(300, 340))
    assert numbers(task.test) == list(range(500, 580))
    smaller = make(data, train=20, validation=0.5, test=8)
    assert (len(smaller.train), len(smaller.validation), len(smaller.test)) == (20, 20, 8)
    assert set(numbers(smaller.test)) < set(range(500, 580))


def test_training_images_come_in_random_order_and_the_others_in_that_of_the_data():
    data = Collection(CLASSES, Split(numbered(400).images, torch.arange(4).repeat_interleave(100)))
    task = make(data)
    assert len(task.train.labels[:16].unique()) == 4
    assert numbers(task.test) == sorted(numbers(task.test))
    assert numbers(task.validation) == sorted(numbers(task.validation))


def test_per_class():
    task = make(per_class=3)
    assert torch.bincount(task.train.labels).tolist() == [3] * 4
    assert (len(task.validation), len(task.test)) == (60, 80)
    assert torch.bincount(make(train=40, per_class=5).train.labels).tolist() == [5] * 4
    official = Collection(CLASSES, numbered(100), numbered(40), numbered(80))
    one, other = (make(official, per_class=3, seed=seed).train for seed in (0, 1))
    assert set(numbers(one)) != set(numbers(other))


def test_classes_are_chosen_before_images_are_counted():
    task = make(classes=["dog", "1"], train=100, test=40)
    assert task.classes == ("dog", "bee")
    assert task.name == "toy (dog 1)"
    assert (len(task.train), len(task.test)) == (100, 40)
    assert {number % 4 for number in numbers(task.train)} == {1, 3}
    for number, label in zip(numbers(task.train), task.train.labels.tolist(), strict=True):
        assert number % 4 == (3, 1)[label]


def test_images_are_resized_turned_and_coloured():
    plain, turned = make(size=12, channels=3), make(size=12, channels=3, rotate=90)
    assert plain.train.images.shape == (260, 3, 12, 12)
    assert torch.equal(turned.train.images, plain.train.images.rot90(1, (2, 3)))
    assert torch.equal(turned.test.images, plain.test.images.rot90(1, (2, 3)))
    assert turned.name == "toy (rotated 90)"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"train": 0}, "train=0: must be a count of 1 or more, a fraction below 1, or null"),
        ({"test": 1.5}, "test=1.5: must be a count"),
        ({"per_class": 0}, "per_class=0: must be at least 1, or null for all"),
        ({"classes": ["ant"]}, "classes=['ant']: must be two or more, or empty for all"),
        ({"rotate": float("inf")}, "rotate=inf: must be a finite number of degrees"),
        ({"folds": 1}, "folds=1: must be 2 or more, or null for no folds"),
        ({"fold": 1}, "fold=1: needs folds=..."),
        ({"folds": 5, "fold": -1}, "fold=-1: must be 0 to 4"),
    ],
)
def test_values_that_no_data_could_fit(settings, text):
    assert text in str(refusal(TaskLoader, **settings))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"train": 300}, "train=300: asks for 300 images, but there are 260 of 400 beside test=80, validation=60"),
        ({"per_class": 66}, "per_class=66: the class 'ant' has only 65 to train on"),
        ({"classes": ["ant", "fox"]}, "classes='fox': must be among ant, bee, cow, dog, or positions 0 to 3"),
        ({"test": 340}, "train=None: none of 400 images is left for it"),
        ({"classes": ["ant", "4"]}, "classes='4': must be among ant, bee, cow, dog, or positions 0 to 3"),
        ({"classes": ["ant", "0"]}, "classes=['ant', '0']: must not name a class twice"),
        ({"train": 3}, "train=3: leaves these classes without an image to train on: "),
        ({"size": 7}, "image_size=7: must be 8 to 4096 pixels"),
        ({"folds": 101}, "folds=101: the class 'ant' has only 100 images, and every fold tests it"),
        ({"data": APART, "folds": 5}, "folds=5: needs data without test images of its own"),
        ({"data": APART, "classes": ["cow", "dog"]}, "has no image of these classes in test"),
    ],
)
def test_values_that_this_data_does_not_fit(settings, text):
    assert text in str(refusal(make, **settings))


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_test_every_image_once_in_class_proportions(folds):
    data = Collection(CLASSES, numbered(101))
    tasks = [make(data, folds=folds, fold=fold) for fold in range(folds)]
    tests = [numbers(task.test) for task in tasks]
    assert sorted(number for test in tests for number in test) == list(range(101))
    assert max(map(len, tests)) - min(map(len, tests)) <= 1
    for task, test in zip(tasks, tests, strict=True):
        others = numbers(task.train) + numbers(task.validation)
        assert sorted(others + test) == list(range(101))
        counts = torch.bincount(task.test.labels, minlength=4)
        assert counts.max() - counts.min() <= 2
        assert len(task.validation) == round(0.15 * len(others))


def test_folds_follow_the_seed_and_the_sizes_hold_within_them():
    data = Collection(CLASSES, numbered(400))
    one, again, other = (make(data, folds=5, fold=1, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    few = make(data, folds=5, fold=1, train=40, validation=20, test=60)
    assert (len(few.train), len(few.validation), len(few.test)) == (40, 20, 60)
    assert set(numbers(few.test)) < set(numbers(one.test))
    shots = make(data, folds=5, fold=1, per_class=3)
    assert torch.bincount(shots.train.labels).tolist() == [3] * 4
    assert numbers(shots.test) == numbers(one.test)


def test_a_task_without_folds_is_what_it_always_was():
    """Fits are remembered by these fingerprints."""
    few = make(train=40, validation=20, test=100, seed=3, per_class=4)
    assert make().fingerprint == "60972b36798561a13dfe9dc91883e75dd902fc562deafa967e648a21f685f6c5"
    assert few.fingerprint == "e7836b2aab8fcf0cc2f076081f97f048ebf8632106e0070664fe6774051783b3"


def test_a_missing_file_that_a_script_makes_says_so():
    assert whence("data/letters.npz") == "; scripts/data/fetch_data.py of the repository makes those of the presets"
    assert whence("elsewhere/letters.npz") == whence("") == ""
