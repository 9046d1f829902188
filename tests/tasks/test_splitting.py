import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.errors import SettingError
from ensemble_transfer.tasks.splitting import carve, class_positions, few_shot, select_classes

BALANCED = torch.arange(10).repeat(100)
UNEVEN = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


def counts(labels, index):
    return torch.bincount(labels[index]).tolist()


def test_carve_by_count_is_exact_disjoint_and_stratified():
    parts = carve(BALANCED, {"test": 200, "validation": 100, "train": None}, seed=0)
    assert {name: len(index) for name, index in parts.items()} == {
        "test": 200,
        "validation": 100,
        "train": 700,
    }
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1000))
    assert counts(BALANCED, parts["test"]) == [20] * 10
    assert counts(BALANCED, parts["validation"]) == [10] * 10


def test_carve_keeps_uneven_proportions():
    parts = carve(UNEVEN, {"test": 0.2, "train": 25}, seed=0)
    assert counts(UNEVEN, parts["test"]) == [12, 6, 2]
    assert counts(UNEVEN, parts["train"]) == [15, 8, 2]  # 15, 7.5, 2.5


def test_the_seed_decides():
    sizes = {"test": 100, "train": 100}
    one, same, other = (carve(BALANCED, sizes, seed) for seed in (0, 0, 1))
    assert torch.equal(one["train"], same["train"])
    assert not torch.equal(one["train"], other["train"])


def test_more_training_images_change_neither_test_nor_the_training_images_before():
    few = carve(BALANCED, {"test": 100, "train": 50}, seed=3)
    many = carve(BALANCED, {"test": 100, "train": 500}, seed=3)
    assert torch.equal(few["test"], many["test"])
    assert set(few["train"].tolist()) < set(many["train"].tolist())


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"test": 60, "train": 41}, "train=41: asks for 41 images, but there are 40 of 100 beside test=60"),
        (
            {"test": 0.6, "validation": 0.5},
            "validation=0.5: asks for 50 images, but there are 40 of 100 beside test=60",
        ),
        ({"test": 100, "train": None}, "train=None: none of 100 images is left for it"),
    ],
)
def test_carve_says_what_is_there(sizes, text):
    with pytest.raises(SettingError) as caught:
        carve(UNEVEN, sizes, seed=0)
    assert str(caught.value) == text


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(sum),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_carve_for_any_classes(sizes, seed, data):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    first = data.draw(st.integers(1, len(labels)))
    second = data.draw(st.integers(0, len(labels) - first))
    wanted = {"first": first} | ({"second": second} if second else {})
    parts = carve(labels, wanted, seed)
    assert {name: len(index) for name, index in parts.items()} == wanted
    together = torch.cat(list(parts.values())).tolist()
    assert len(set(together)) == len(together)
    for size, got in zip(sizes, torch.bincount(labels[parts["first"]], minlength=len(sizes)).tolist(), strict=True):
        assert abs(got - size * first / len(labels)) < 1


def test_few_shot_takes_the_same_of_every_class():
    chosen = few_shot(UNEVEN, 10, ("a", "b", "c"), seed=0)
    assert counts(UNEVEN, chosen) == [10, 10, 10]
    assert len(set(chosen.tolist())) == 30
    assert torch.equal(chosen, few_shot(UNEVEN, 10, ("a", "b", "c"), seed=0))
    assert not torch.equal(chosen, few_shot(UNEVEN, 10, ("a", "b", "c"), seed=1))


def test_select_classes_numbers_them_in_the_order_asked_for():
    index, labels = select_classes(torch.tensor([0, 1, 2, 1, 0]), [2, 0])
    assert index.tolist() == [0, 2, 4]
    assert labels.tolist() == [1, 0, 1]


def test_classes_go_by_name_and_then_by_position():
    assert class_positions(("cat", "dog", "eel"), ["eel", "0"]) == [2, 0]
    assert class_positions(("1", "0"), ["1", "0"]) == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (["cat", "fox"], "classes='fox': must be among cat, dog, or positions 0 to 1"),
        (["cat", "2"], "classes='2': must be among cat, dog, or positions 0 to 1"),
        (["cat", "0"], "classes=['cat', '0']: must not name a class twice"),
    ],
)
def test_classes_that_are_not_there(wanted, text):
    with pytest.raises(SettingError) as caught:
        class_positions(("cat", "dog"), wanted)
    assert str(caught.value) == text
