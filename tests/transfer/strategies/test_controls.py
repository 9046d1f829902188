"""The controls: star, scratch, and full fine-tuning from a probed head."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import Full, Recipe, Scratch, Star
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.weights import below

STILL = Recipe(1, lr=1e-30)
"""A recipe whose steps move no weight, but running statistics."""


def learned(weights):
    return {name: tensor for name, tensor in weights.items() if not is_statistic(name)}


@pytest.mark.parametrize("donors", [1, 2])
def test_the_recipients_of_star_start_from_the_donors_in_turns(source_ensemble, transfer, donors):
    source = replace(source_ensemble, members=source_ensemble.members[:2] * 2)
    members = transfer(Star(donors), source, tiny=STILL).ensemble.members
    full = transfer(Full(), source).ensemble.members
    for member in range(4):
        assert equal(learned(members[member]), learned(full[member % donors]))
    assert equal(learned(members[0]), learned(members[1])) == (donors == 1)


@pytest.mark.parametrize("donors", [1, 2, 3])
def test_star_costs_its_donors_and_tiny_fine_tunings(transfer, donors):
    result = transfer(Star(donors))
    assert result.ledger.total().steps == donors * 12 + (3 - donors) * 3
    assert result.recipients == tuple(range(donors, 3))
    assert len(result.ensemble) == 3
    assert (result.marginal() is None) == (donors == 3)
    if donors == 1:
        assert not equal(result.ensemble.members[1], result.ensemble.members[2])


def test_scratch_knows_nothing_of_the_source(source_ensemble, transfer):
    other = replace(source_ensemble, members=source_ensemble.members[::-1])
    one, two = (transfer(Scratch(), source) for source in (source_ensemble, other))
    assert one.ensemble.fingerprint == two.ensemble.fingerprint
    assert (one.ensemble.lineage, source_ensemble.lineage) == ("independent", "shared")
    first, second, _ = transfer(Scratch(), full=STILL).ensemble.members  # where they start
    assert not torch.equal(first["head.weight"], second["head.weight"])
    full = transfer(Full())
    assert one.ledger.total().flops == full.ledger.total().flops
    assert one.marginal().steps == 12


def test_lp_ft_starts_from_a_probed_head_and_costs_the_probe_more(transfer, bench):
    full, lp_ft = (transfer(Full(head)) for head in ("fresh", "probe"))
    phases = lp_ft.ledger.by_phase()
    assert list(phases) == ["probe", "full"]
    assert lp_ft.ledger.total().flops == full.ledger.total().flops + phases["probe"].flops
    assert phases["probe"].steps == 3 * 10
    untouched = transfer(Full("probe"), full=STILL)
    probed = bench.probe(bench.with_fresh_heads(bench.encoders, "full"))
    for member, weights in zip(untouched.ensemble.members, probed.weights, strict=True):
        assert equal(learned(member), learned(weights))
    assert not equal(full.ensemble.members[0], lp_ft.ensemble.members[0])
    assert (Full().name, Full("probe").name) == ("full", "lp_ft")


def test_the_soup_of_twins_is_the_twin(transfer, bench):
    member = transfer(Full()).ensemble.members[0]
    assert equal(bench.soup([member]), member)
    assert equal(bench.soup([member, member]), member)
    three = bench.soup([member, member, member])  # of which a mean rounds
    assert equal(below(three, "encoder"), below(member, "encoder"))


def test_a_soup_is_the_mean_of_its_members(transfer, bench):
    members = transfer(Full()).ensemble.members
    head = below(bench.soup(members), "head")["weight"]
    torch.testing.assert_close(head, sum(below(member, "head")["weight"] for member in members) / 3)
