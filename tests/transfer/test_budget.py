"""Budgets: what strategies plan, what they spend, and what they refuse before anything is trained."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import Auto, Few, Full, HeadOnly, Recipe, Scratch, Shift, Snapshots, Star, Tiny, Turns
from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.transfer.prices import Prices, stretched

STRATEGIES = {
    "head": HeadOnly(),
    "tiny": Tiny(),
    "zero_shot": Shift(finish="head"),
    "shift": Shift(),
    "shift_if_better": Shift(if_better=True),
    "random_shift": Shift(direction="random", head="fresh"),
    "star": Star(),
    "snapshots": Snapshots(),
    "few": Few(2),
    "few_in_cycles": Few(2, [0.6, 0.2, 0.2]),
    "lp_ft": Full("probe"),
    "scratch": Scratch(),
    "auto": Auto(),
    "turns": Turns(),
}


@pytest.fixture
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(Fitter, "fit", lambda *_, **__: pytest.fail("something was trained"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_11_no_strategy_spends_more_than_its_budget(name, bench, longer):
    budget = 0.7
    bench = replace(bench, recipes=longer, budget=budget)
    result = STRATEGIES[name].run(bench)
    spent = result.ledger.total().flops / bench.prices.full
    assert spent <= budget
    assert spent == bench.ledger.total().flops / bench.prices.full
    if name != "head":  # heads cannot be stretched
        assert spent > 0.9 * budget


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_budget_does_not_pay_for_is_refused_before_training(name, transfer, longer, nothing_is_trained):
    with pytest.raises(SettingError, match=r"^budget=1e-05: does not pay for .* which takes .* fine-tunings$"):
        transfer(STRATEGIES[name], budget=1e-5, recipes=longer)


def test_full_keeps_its_recipe_and_names_few(transfer, longer, nothing_is_trained):
    rule = r"budget=2: does not pay for full .*strategy=few.* takes 3 fine-tunings"
    with pytest.raises(SettingError, match=rule):
        transfer(Full(), budget=2, recipes=longer)


def test_auto_needs_a_budget_and_images_to_choose_on(transfer, target_task, nothing_is_trained):
    with pytest.raises(SettingError, match="budget=None: is required by auto"):
        transfer(Auto())
    few = replace(target_task, validation=target_task.validation.take(torch.arange(5)))
    with pytest.raises(SettingError, match="validation=5: must be at least 20 for auto"):
        transfer(Auto(), budget=1.0, target=few)


def test_few_members_with_a_full_each_are_those_of_full(transfer):
    full = transfer(Full()).ensemble
    for budget in (None, 2.0):
        few = transfer(Few(2), budget=budget).ensemble
        assert len(few) == 2
        assert all(equal(a, b) for a, b in zip(few.members, full.members[:2], strict=True))


@pytest.fixture
def prices(source_ensemble, target_task, longer):
    return Prices.of(source_ensemble.architecture, target_task, longer, 3, 1.2)


def test_what_a_transfer_has_cost_pays_for_it_again(prices):
    """As a budget, a whole number of FLOPs over that of a fine-tuning, which no float holds exactly."""
    costs = range(prices.full, 3 * prices.full, prices.full // 999)
    assert [replace(prices, budget=cost / prices.full).limit for cost in costs] == list(costs)
    assert any(int(cost / prices.full * prices.full) < cost for cost in costs)


@pytest.mark.parametrize("strategy", [Shift(head="donor", statistics="shift", finish="head"), Tiny(), Full("probe")])
def test_schedules_of_any_length_stay_within_a_budget_that_floats_do_not_hold(prices, strategy):
    long = replace(prices.recipes, full=Recipe(10**7, 10**4), tiny=Recipe(10**7, 10**4))
    for budget in (place / 100 for place in range(201, 500)):
        own = replace(prices, recipes=long, budget=budget, examples=10**6)
        plan = strategy.plan(own)
        if isinstance(strategy, Shift):
            spent = own.fit(plan.full)
        elif isinstance(strategy, Tiny):
            members, recipe = plan
            spent = members * (own.statistics + own.probe + own.fit(recipe))
        else:
            spent = 3 * (own.probe + own.fit(plan))
        assert spent <= own.limit


def test_few_shares_steps_out_evenly(prices):
    assert Few(1).plan(prices) == [[108]]
    assert Few(3).plan(prices) == [[36], [36], [36]]
    uneven = [steps for [steps] in Few(2).plan(replace(prices, budget=1.015))]
    assert sum(uneven) == 91
    assert max(uneven) - min(uneven) == 1


def test_few_divides_a_members_share_into_cycles(prices):
    assert Few(1, [0.6, 0.2, 0.2]).plan(prices) == [[66, 21, 21]]  # what is left of 108 is the first's
    assert Few(2, [1, 1]).plan(replace(prices, budget=1.015)) == [[24, 22], [23, 22]]
    assert Few(2, [0.5, 0.5]).plan(replace(prices, budget=None)) == [[45, 45], [45, 45]]
    with pytest.raises(SettingError, match=r"^budget=0.05: .* a step of each cycle of members=1, .* 0.0556 fine"):
        Few(1, [0.6, 0.2, 0.2]).plan(replace(prices, budget=0.05))
    assert Few(1, [0.6, 0.2, 0.2]).plan(replace(prices, budget=0.0556)) == [[3, 1, 1]]
    with pytest.raises(SettingError, match=r"cycles=\[1, 0\]: must be lengths above 0"):
        Few(1, [1, 0])


def test_few_keeps_every_member_after_each_cycle(transfer, longer):
    result = transfer(Few(2, [0.6, 0.2, 0.2]), budget=1.0, recipes=longer)
    kept = result.ensemble.members
    assert len(kept) == 6
    assert not any(equal(a, b) for place, a in enumerate(kept) for b in kept[:place])
    assert result.recipients == (0, 1)
    assert result.marginal().steps == 45  # one more member, with all its cycles
    assert {entry.phase for entry in result.ledger.entries} == {"full", "cycle"}


@pytest.mark.parametrize(
    ("budget", "cycles"), [(0.3, [27]), (0.6, [36, 18]), (1.0, [36, 18, 18, 18]), (None, [36, 18, 18, 18])]
)
def test_cycles_are_as_many_as_fit(budget, cycles, prices):
    prices = replace(prices, budget=budget)
    assert Snapshots().plan(prices) == cycles
    assert Snapshots(members=2).plan(prices)[2:] == []
    assert sum(Snapshots(members=2).plan(prices)) == sum(cycles)


@pytest.mark.parametrize(("strategy", "width"), [(Snapshots(), 1), (Few(2, [0.4, 0.3, 0.3]), 2)])
def test_a_cycle_goes_on_from_the_one_before(transfer, longer, monkeypatch, strategy, width):
    begun, fit = [], Fitter.fit

    def watched(self, architecture, starts, *rest):
        begun.extend(starts)
        return fit(self, architecture, starts, *rest)

    monkeypatch.setattr(Fitter, "fit", watched)
    members = transfer(strategy, budget=0.8, recipes=longer).ensemble.members
    assert len(begun) == len(members) == 3 * width
    assert len({start.seed for start in begun}) == 3 * width
    assert all(equal(start.weights, before) for start, before in zip(begun[width:], members, strict=False))


def test_star_and_snapshots_differ_only_in_where_a_cycle_starts(transfer, longer):
    star, snapshots = (transfer(strategy, budget=1.0, recipes=longer) for strategy in (Star(), Snapshots()))
    steps = [[result.ledger.of_member(m).steps for m in range(4)] for result in (star, snapshots)]
    assert steps[0] == steps[1] == [36, 18, 18, 18]
    assert equal(star.ensemble.members[0], snapshots.ensemble.members[0])
    assert not equal(star.ensemble.members[2], snapshots.ensemble.members[2])


def test_a_star_with_whole_cycles_without_a_budget(transfer, longer):
    result = transfer(Star(cycle=0.2), recipes=longer)
    assert [result.ledger.of_member(m).steps for m in range(3)] == [90, 18, 18]


def test_a_shift_within_a_budget_stretches_donor_and_recipients_alike(prices, longer):
    prices = replace(prices, budget=None)
    whole = Shift().plan(prices)
    assert (whole.members, whole.full, whole.tiny) == (3, longer.full, longer.tiny)
    spent = prices.full + 2 * (prices.statistics + prices.probe + prices.tiny)
    twice = Shift().plan(replace(prices, budget=2 * spent / prices.full))
    assert twice.full.steps > 2 * longer.full.steps
    assert twice.tiny.steps == stretched(longer.tiny, twice.full.steps / longer.full.steps).steps
    recipient = prices.statistics + prices.probe
    tight = Shift(finish="head").plan(replace(prices, budget=4.2 * recipient / prices.full))
    assert tight.members == 2  # a quarter of the budget pays for one recipient


def test_members_of_a_shift_can_be_fewer(transfer, longer, source_ensemble):
    whole, two = (transfer(Shift(members=m), recipes=longer).ensemble for m in (None, 2))
    assert (len(whole), len(two)) == (3, 2)
    assert all(equal(a, b) for a, b in zip(two.members, whole.members[:2], strict=True))
    with pytest.raises(SettingError, match=r"members=4: must be at most ensemble\.size=3"):
        Shift(members=4).check(3, source_ensemble.architecture)


def test_a_member_added_to_a_shift_with_a_budget_gets_the_tiny_fine_tuning_of_the_run(bench, longer):
    small = replace(bench.source, members=bench.source.members[:2])
    first = replace(bench, source=small, recipes=longer, budget=2.0, ledger=Ledger())
    run, later = Shift().run(first), replace(bench, recipes=longer)
    assert run.shift.tiny == Shift().plan(first.prices).tiny != longer.tiny
    Shift().add(later, {2: later.encoders[2]}, run.shift, run.ensemble.members[:1])
    assert later.ledger.by_phase()["tiny"].steps == run.shift.tiny.steps
