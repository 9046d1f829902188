import numpy as np
import pytest
import torch

from ensemble_transfer.metrics.ties import steady, tie_averaged


def test_steady_makes_sums_in_another_order_equal_but_for_rare_edges():
    values = torch.rand(3, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forth, back = values[0] + values[1] + values[2], values[2] + values[1] + values[0]
    assert (forth != back).sum() > 1000
    assert (steady(forth) != steady(back)).sum() < 10


def test_steady_keeps_40_bits_of_every_magnitude():
    values = torch.logspace(-300, 0, 1000, dtype=torch.float64)
    np.testing.assert_allclose(steady(values), values, rtol=2**-40, atol=0)
    assert torch.equal(steady(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 0.5, 1.0]).double())


def test_tie_averaged():
    values, key = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]), torch.tensor([0.3, 0.9, 0.5, 0.5, 0.5])
    assert tie_averaged(values, by=key).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3, 1])


def test_votes_are_values_too():
    votes = torch.tensor([True, False])
    assert steady(votes).tolist() == [1.0, 0.0]
