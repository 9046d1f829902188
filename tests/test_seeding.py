import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.seeding import derive, generator

ADDRESSES = st.lists(st.integers(0, 9) | st.text("ab", max_size=2), max_size=3).map(tuple)


def test_a_seed_is_63_bits_of_a_sha256_of_the_address():
    digest = hashlib.sha256(b"(7, 'member', 3, 'step', 17)").hexdigest()
    assert derive(7, "member", 3, "step", 17) == int(digest[:16], 16) // 2
    assert derive(0) == 5254295370254170289
    generator(2**70, "member")


def test_numpys_integers_are_the_same_address():
    assert derive(np.int64(7), "member", np.uint8(3)) == derive(7, "member", 3)


@given(st.integers(0, 3), ADDRESSES, st.integers(0, 3), ADDRESSES)
def test_seeds_are_equal_only_at_the_same_address(seed, address, other_seed, other_address):
    same = (seed, address) == (other_seed, other_address)
    assert (derive(seed, *address) == derive(other_seed, *other_address)) == same


def test_a_generator_gives_the_same_stream_for_the_same_address():
    first, again = generator(3, "order", 1), generator(3, "order", 1)
    assert first.device.type == "cpu"
    assert torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=again))
    assert not torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=generator(3, "order", 2)))
