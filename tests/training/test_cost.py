import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble_transfer.training.cost import Cost, Entry, Ledger, mean_cost, measured

CPU = torch.device("cpu")
MEGABYTE = 1024**2


def ledger():
    """Member 0 is the donor; 1 and 2 are probed and tiny fine-tuned; member 2's tiny fit came from the store."""
    full, probe = Cost(300, 9600, 900, 30.0, 29.0, 500, 80), Cost(200, 6500, 50, 1.0, 0.5, 300, 10)
    tiny = Cost(20, 640, 60, 2.0, 1.5, 400, 80)
    return Ledger(
        [
            Entry("full", 0, full, "k0"),
            Entry("statistics", 1, Cost(0, 100, 5, 0.1, 0.1, 350, 0)),
            Entry("statistics", 2, Cost(0, 100, 5, 0.1, 0.1, 350, 0)),
            Entry("probe", 1, probe, "k1"),
            Entry("probe", 2, probe, "k2"),
            Entry("tiny", 1, tiny, "k3"),
            Entry("tiny", 2, tiny, "k4", reused=True),
        ]
    )


def test_trained_parameters_count_once_a_member():
    assert ledger().total().trained_parameters == 80 + 80 + 80
    assert ledger().of_member(1).trained_parameters == 80
    phases = ledger().by_phase()
    assert list(phases) == ["full", "statistics", "probe", "tiny"]  # the order of the work
    assert [phases[name].trained_parameters for name in phases] == [80, 0, 2 * 10, 2 * 80]
    assert phases["tiny"] == Cost(40, 1280, 120, 4.0, 3.0, 400, 160)


def test_a_member_has_its_own_entries_only():
    assert ledger().of_member(2) == Cost(220, 7240, 115, 3.1, 2.1, 400, 80)
    assert ledger().of_member(7) == Cost()
    total = ledger().total()  # reused or not
    assert (total.steps, total.flops) == (300 + 2 * (200 + 20), 900 + 2 * (5 + 50 + 60))
    assert total.examples == 9600 + 2 * (100 + 6500 + 640)
    assert total.cpu_seconds == pytest.approx(29.0 + 2 * (0.1 + 0.5 + 1.5))


def test_the_mean_rounds_counts_and_keeps_fractions_of_seconds():
    costs = [Cost(20, 640, 61, 1.0, 0.5, 400, 80), Cost(20, 640, 60, 2.0, 0.5, 410, 80), Cost(21, 0, 60, 2.0, 0.2)]
    mean = mean_cost(costs)
    assert (mean.steps, mean.examples, mean.flops, mean.peak_memory_bytes) == (20, 427, 60, 270)
    assert mean.trained_parameters == 53
    assert (mean.seconds, mean.cpu_seconds) == (pytest.approx(5 / 3), pytest.approx(0.4))
    assert all(isinstance(getattr(mean, name), int) for name in ("steps", "examples", "flops"))


def test_seconds_are_those_of_the_wall_and_of_the_processor():
    with measured(CPU) as meter:
        time.sleep(0.2)
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
    assert meter.seconds >= 0.29
    assert 0.1 <= meter.cpu_seconds < 0.2


def peak(megabytes):
    """Return the peak of a block that fills so much memory and gives it back, in megabytes."""
    with measured(CPU) as meter:
        np.ones(megabytes * MEGABYTE, dtype=np.uint8).sum()
    return meter.peak_memory_bytes / MEGABYTE


def may_reset_the_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not may_reset_the_peak(), reason="this system does not let a process forget its peak memory")
def test_the_peak_is_that_of_the_block():
    before, high, after = peak(1), peak(200), peak(1)
    assert high - before == pytest.approx(200, abs=20)
    assert high - after == pytest.approx(200, abs=20)


def test_learning_curves_are_means_of_members_and_a_phase_that_comes_again_has_a_number():
    one, other = ((0.0, 2.0, 0.1), (5.0, 1.0, 0.01)), ((0.0, 4.0, 0.1), (5.0, 2.0, 0.01))
    spent = [
        Entry("cycle", 0, Cost(), curve=one),
        Entry("cycle", 1, Cost(), curve=other),
        Entry("statistics", 0, Cost()),
    ]
    again = [Entry("cycle", 0, Cost(), curve=other), Entry("tiny", 1, Cost(), curve=one)]
    assert Ledger([*spent, *again]).learning() == {
        "cycle": {"step": [0.0, 5.0], "loss": [3.0, 1.5], "rate": [0.1, 0.01]},
        "cycle_2": {"step": [0.0, 5.0], "loss": [4.0, 2.0], "rate": [0.1, 0.01]},
        "tiny": {"step": [0.0, 5.0], "loss": [2.0, 1.0], "rate": [0.1, 0.01]},
    }
