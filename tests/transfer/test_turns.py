"""Several donors that shift the other members in turns."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import Few, SettingError, Shift, Turns
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.weights import add_scaled, below, subtract


def test_donors_are_few_and_each_member_moves_as_the_donor_whose_turn_it_is(transfer, bench, longer):
    bench = replace(bench, recipes=longer)
    few = transfer(Few(2), recipes=longer).ensemble
    turns = Turns(scales=[1.5]).run(bench).ensemble
    assert all(equal(a, b) for a, b in zip(few.members, turns.members[:2], strict=True))
    assert [Turns().turn(member, [0, 1]) for member in (2, 3, 7, 8)] == [0, 1, 1, 0]
    move = subtract(below(few.members[0], "encoder"), bench.encoders[0])
    moved = add_scaled(bench.encoders[2], move, 1.5)
    weights = below(turns.members[2], "encoder")
    assert all(
        torch.equal(weights[name], moved[name]) for name in weights if "running" not in name and "num_" not in name
    )


def test_one_donor_and_one_scale_are_zero_shot(transfer, longer):
    one, other = (transfer(s, recipes=longer) for s in (Turns(1, scales=[1.0]), Shift(finish="head")))
    assert one.ledger.total().flops == other.ledger.total().flops
    for a, b in zip(one.ensemble.members, other.ensemble.members, strict=True):
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-6) for name in a)


def test_the_scale_is_the_one_that_serves_the_first_recipient_best(bench, longer):
    bench = replace(bench, recipes=longer)
    result = Turns(scales=[0.0, 1.0]).run(bench)
    losses, donors = {}, dict(enumerate(result.ensemble.members[:2]))
    for scale in (0.0, 1.0):
        members = Turns().add(bench.unbilled(), donors, [2], scale)
        tried = Candidate("tried", members, bench.unbilled().look(members))
        losses[scale] = float(tried.losses(bench.target.validation.labels).mean())
    assert result.decisions["turns"]["scale"] == min(losses, key=losses.get)


def test_a_shifted_member_may_keep_the_head_of_its_donor(transfer, longer):
    result = transfer(Turns(scales=[1.0], head="donor"), recipes=longer)
    first, _, shifted = result.ensemble.members
    assert equal(below(first, "head"), below(shifted, "head"))
    assert list(result.ledger.by_phase()) == ["full", "statistics"]


def test_one_more_member_costs_statistics_and_a_head_whatever_was_tried(bench, longer):
    bench = replace(bench, recipes=longer)
    result = Turns(scales=[0.0, 1.0, 1.5]).run(bench)
    assert result.marginal().flops <= Turns().price(bench.prices)
    assert result.ledger.by_phase()["scale search"].flops == 2 * result.marginal().flops


def test_a_budget_pays_for_trials_recipients_and_donors(bench, longer):
    bench = replace(bench, recipes=longer, budget=1.3)
    prices, (steps, recipients) = bench.prices, Turns().plan(bench.prices)
    price = Turns().price(prices)
    spent = sum(steps) * prices.step + (recipients + 2) * price + 3 * prices.look
    assert recipients == 1
    assert prices.limit - prices.step < spent <= prices.limit
    assert len(steps) == 2
    assert max(steps) - min(steps) <= 1
    assert Turns().plan(replace(prices, budget=None)) == ([90, 90], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 2}, "members=2: must be above donors=2, or null for all"),
        ({"scales": []}, r"scales=\[\]: must be one or more finite numbers"),
        ({"scales": [float("nan")]}, r"scales=\[nan\]: must be one or more finite numbers"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        Turns(**options)


def test_a_member_must_be_left_to_shift(transfer):
    with pytest.raises(SettingError, match=r"donors=3: must be below ensemble\.size=3"):
        transfer(Turns(donors=3))
    with pytest.raises(SettingError, match=r"members=4: must be at most ensemble\.size=3"):
        transfer(Turns(members=4))
