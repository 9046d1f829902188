"""What a fit says where there are no bars, and where its steps are slow."""

import logging
from types import SimpleNamespace

import pytest
import torch

from ensemble_transfer.training import course, watch
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.store import Unfinished
from ensemble_transfer.training.watch import PATIENCE, SLOW, Pace


@pytest.mark.parametrize(("times", "warned"), [(SLOW * 0.9, False), (SLOW * 1.1, True)])
def test_steps_that_are_far_too_slow_name_the_threads_once(monkeypatch, caplog, times, warned):
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    slow = Pace(expected=0.1)
    for _ in range(9 * int(PATIENCE)):
        slow.stepped()
        now[0] += 0.1 * times
    said = f"a step takes {0.1 * times:.2f} s, where about 0.10 s are expected: "
    assert [message.startswith(said) and "trainer.threads=1" in message for message in caplog.messages] == [
        True
    ] * warned


def test_a_fit_looks_at_its_steps(monkeypatch, caplog, train):
    monkeypatch.setattr(watch, "SLOW", 0)
    monkeypatch.setattr(watch, "PATIENCE", 0)
    with caplog.at_level(logging.INFO):
        train(range(2), Recipe(4))
    assert sum("trainer.threads=1 may be faster" in message for message in caplog.messages) == 1
    assert "full: training members 1-2, 4 steps each" in caplog.messages


def test_processes_share_the_seconds_since_a_fit_went_on_and_not_those_before(monkeypatch, settings):
    group = SimpleNamespace(state_dicts=lambda: [{}, {}], optimizer_states=lambda _: [{}, {}])
    batches = Batches(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), 2, [0, 1])
    monkeypatch.setattr(course.time, "perf_counter", lambda: 100.0)
    curve = torch.tensor([[0.0, 2.0]])
    before = [Unfinished({}, {}, curve, 1, seconds, 1.0) for seconds in (7.0, 5.0)]
    fit = course.Course(group, batches, Recipe(5), settings, before)
    fit.optimizer = None
    monkeypatch.setattr(course.time, "perf_counter", lambda: 108.0)
    assert [state.seconds for state in fit.states(sharing=4)] == [7.0, 7.0]  # (12 + 8 / 4) / 2
