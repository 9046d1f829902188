import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_transfer.tasks.splitting import carve, class_positions

BALANCED = torch.arange(10).repeat(100)


def test_more_training_images_change_neither_test_nor_the_training_images_before():
    few = carve(BALANCED, {"test": 100, "train": 50}, seed=3)
    many = carve(BALANCED, {"test": 100, "train": 500}, seed=3)
    assert torch.equal(few["test"], many["test"])
    assert set(few["train"].tolist()) < set(many["train"].tolist())


@settings(max_examples=30)
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


def test_classes_go_by_name_and_then_by_position():
    assert class_positions(("cat", "dog", "eel"), ["eel", "0"]) == [2, 0]
    assert class_positions(("1", "0"), ["1", "0"]) == [0, 1]
