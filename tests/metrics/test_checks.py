import re

import pytest
import torch

from ensemble_transfer.metrics.checks import as_predictions, as_probabilities

GOOD = torch.full((2, 3, 4), 0.25)


def changed(value, index=(1, 2, 3)):
    probabilities = GOOD.clone()
    probabilities[index] = value
    return probabilities


MANY = torch.cat([changed(0.26), GOOD.repeat(1, 200, 1)], 1)
"""A single example among many is wrong, by little."""


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (
            GOOD[0],
            "p has shape (3, 4); must be (members, examples, classes), none empty, at least 2 classes; for a",
        ),
        (GOOD[:0], "p has shape (0, 3, 4); must be (members, examples, classes), none empty"),
        (torch.ones(2, 3, 1), "p has shape (2, 3, 1); must be (members, examples, classes), none empty, at least 2"),
        (changed(float("nan")), "p holds nan; must be finite"),
        (changed(-0.5), "p holds -0.5; must lie in 0..1"),
        (GOOD + 0j, "p has dtype torch.complex64; must be real numbers"),
        ((GOOD + 0j).numpy(), "p has dtype complex64; must be real numbers"),
        (MANY, "p sums to 1.01 over the classes of member 1, example 2; must be 1 within 0.001"),
    ],
)
def test_bad_probabilities(probabilities, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        as_probabilities(probabilities, "p")


def test_other_members_or_classes():
    with pytest.raises(ValueError, match=r"^p has 2 members; must be 5, as in probabilities$"):
        as_probabilities(GOOD, "p", members=5)
    with pytest.raises(ValueError, match=r"^p has 4 classes; must be 3, as in probabilities$"):
        as_probabilities(GOOD, "p", members=2, classes=3)


@pytest.mark.parametrize(
    "probabilities",
    [GOOD, GOOD.half(), GOOD.double(), changed(0.2505), torch.eye(4).bool()[:3].expand(2, -1, -1)],
)
def test_good_probabilities(probabilities):
    as_probabilities(probabilities)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.long), "y/labels has shape (3, 4); must be (examples,)"),
        (torch.zeros(3), "y/labels has dtype float32; must be integers, the class indices 0..3"),
        (torch.zeros(2, dtype=torch.long), "y/labels has 2 entries; must be 3, one for each predicted example"),
        (torch.tensor([0, 4, 0]), "y/labels holds 4; must lie in 0..3, there are 4 classes"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        as_predictions(GOOD, labels, "y/")
