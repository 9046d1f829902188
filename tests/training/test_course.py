"""What a fit says where there are no bars, and where its steps are slow."""

import logging

import pytest

from ensemble_transfer.training import course
from ensemble_transfer.training.course import PATIENCE, SLOW, Pace
from ensemble_transfer.training.recipe import Recipe


@pytest.mark.parametrize(("times", "warned"), [(SLOW * 0.9, False), (SLOW * 1.1, True)])
def test_steps_that_are_far_too_slow_name_the_threads_once(monkeypatch, caplog, times, warned):
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    slow = Pace(expected=0.1)
    for _ in range(9 * int(PATIENCE)):
        slow.stepped()
        now[0] += 0.1 * times
    said = f"a step takes {0.1 * times:.2f} s, where about 0.10 s are expected: "
    assert [message.startswith(said) and "trainer.threads=1" in message for message in caplog.messages] == [
        True
    ] * warned


def test_a_fit_looks_at_its_steps(monkeypatch, caplog, train):
    monkeypatch.setattr(course, "SLOW", 0)
    monkeypatch.setattr(course, "PATIENCE", 0)
    with caplog.at_level(logging.INFO):
        train(range(2), Recipe(4))
    assert sum("trainer.threads=1 may be faster" in message for message in caplog.messages) == 1
    assert "full: training members 1-2, 4 steps each" in caplog.messages
