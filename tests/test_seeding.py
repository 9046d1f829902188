import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.seeding import derive, generator

ADDRESSES = st.lists(st.integers(0, 9) | st.text("ab", max_size=2), max_size=3).map(tuple)


def test_a_seed_is_63_bits_of_a_sha256_of_the_address():
    digest = hashlib.sha256(b"(7, 'member', 3, 'step', 17)").hexdigest()
    assert derive(7, "member", 3, "step", 17) == int(digest[:16], 16) // 2


def test_seeds_stay_what_they_were():
    assert derive(0) == 5254295370254170289
    assert derive(1, "full", 2) == 7321578751062743463


@given(st.integers(-(2**70), 2**70), ADDRESSES)
def test_a_seed_suits_torch(seed, address):
    assert 0 <= derive(seed, *address) < 2**63
    generator(seed, *address)


@given(st.integers(0, 3), ADDRESSES, st.integers(0, 3), ADDRESSES)
def test_seeds_are_equal_only_at_the_same_address(seed, address, other_seed, other_address):
    same = (seed, address) == (other_seed, other_address)
    assert (derive(seed, *address) == derive(other_seed, *other_address)) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), (2, 1)), ((0, "ab", "c"), (0, "a", "bc")), ((0, 1), (0, "1")), ((0, 12), (0, 1, 2)), ((0,), (0, ""))],
)
def test_addresses_that_look_alike_differ(one, other):
    assert derive(*one) != derive(*other)


def test_seeds_of_neighbours_spread_evenly():
    seeds = torch.tensor([derive(0, "member", member) / 2**63 for member in range(2000)])
    assert len(seeds.unique()) > 1990
    assert seeds.mean().item() == pytest.approx(0.5, abs=5 / (12 * 2000) ** 0.5)


def test_a_generator_gives_the_same_stream_for_the_same_address():
    first, again = generator(3, "order", 1), generator(3, "order", 1)
    assert first.device.type == "cpu"
    assert torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=again))
    assert not torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=generator(3, "order", 2)))


def test_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), derive(5, "x")
    drawn = torch.rand(4, generator=generator(5, "x"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert derive(5, "x") == first
    assert torch.equal(torch.rand(4, generator=generator(5, "x")), drawn)
