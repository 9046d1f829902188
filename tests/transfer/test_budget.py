"""Budgets: what strategies plan, what they spend, and what they refuse before anything is trained."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.errors import SettingError
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.fit import Fitter
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.transfer.base import Workbench, transfer_ensemble
from ensemble_transfer.transfer.prices import Prices, stretched
from ensemble_transfer.transfer.strategies.auto import Auto
from ensemble_transfer.transfer.strategies.few import Few
from ensemble_transfer.transfer.strategies.full import Full
from ensemble_transfer.transfer.strategies.head import HeadOnly
from ensemble_transfer.transfer.strategies.matched import Matched
from ensemble_transfer.transfer.strategies.scratch import Scratch
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.strategies.snapshots import Snapshots
from ensemble_transfer.transfer.strategies.star import Star
from ensemble_transfer.transfer.strategies.tiny import Tiny
from ensemble_transfer.transfer.strategies.turns import Turns

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
    "matched": Matched(),
    "lp_ft": Full("probe"),
    "scratch": Scratch(),
    "auto": Auto(),
    "turns": Turns(),
}


@pytest.fixture(scope="module")
def longer(recipes) -> Recipes:
    """Recipes whose full fine-tuning is long beside probes, as in real ones."""
    return replace(recipes, full=Recipe(90, lr=1e-2), probe=Recipe(6, lr=1e-2), head=Recipe(8, lr=1e-2))


@pytest.fixture
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(Fitter, "_fits", lambda *_: pytest.fail("something was trained"))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("budget", [0.7, 1.3])
@pytest.mark.parametrize("name", STRATEGIES)
def test_11_no_strategy_spends_more_than_its_budget(name, budget, source_ensemble, target_task, longer, fitter):
    bench = Workbench(source_ensemble, target_task.sealed(), 0, longer, fitter, budget)
    result = STRATEGIES[name].run(bench)
    spent = result.ledger.total().flops / bench.prices.full
    assert spent <= budget
    assert spent == bench.ledger.total().flops / bench.prices.full
    if name != "head":  # heads cannot be stretched
        assert spent > 0.9 * budget


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_budget_does_not_pay_for_is_refused_before_anything_is_trained(
    name, source_ensemble, target_task, longer, fitter, nothing_is_trained
):
    with pytest.raises(SettingError, match=r"^budget=1e-05: does not pay for .* which takes .* fine-tunings$"):
        transfer_ensemble(STRATEGIES[name], source_ensemble, target_task.sealed(), 0, longer, fitter, 1e-5)


def test_full_keeps_its_recipe_and_names_matched(source_ensemble, target_task, longer, fitter, nothing_is_trained):
    with pytest.raises(
        SettingError, match=r"budget=2: does not pay for full .*strategy=matched.* takes 3 fine-tunings"
    ):
        transfer_ensemble(Full(), source_ensemble, target_task.sealed(), 0, longer, fitter, 2)


def test_auto_needs_a_budget_and_images_to_choose_on(source_ensemble, target_task, longer, fitter, nothing_is_trained):
    with pytest.raises(SettingError, match="budget=None: is required by auto"):
        transfer_ensemble(Auto(), source_ensemble, target_task.sealed(), 0, longer, fitter)
    few = replace(target_task, validation=target_task.validation.take(torch.arange(5))).sealed()
    with pytest.raises(SettingError, match="validation=5: must be at least 20 for auto"):
        transfer_ensemble(Auto(), source_ensemble, few, 0, longer, fitter, 1.0)


def test_few_members_with_a_full_each_are_those_of_full(source_ensemble, target_task, recipes, fitter):
    target = target_task.sealed()
    full = transfer_ensemble(Full(), source_ensemble, target, 0, recipes, fitter).ensemble
    for budget in (None, 2.0):
        few = transfer_ensemble(Few(2), source_ensemble, target, 0, recipes, fitter, budget).ensemble
        assert len(few) == 2
        assert all(equal(a, b) for a, b in zip(few.members, full.members[:2], strict=True))


def test_few_shares_steps_out_evenly(source_ensemble, target_task, longer):
    prices = Prices.of(source_ensemble.architecture, target_task, longer, 3, 1.2)
    assert Few(1).plan(prices) == [[108]]
    assert Few(3).plan(prices) == [[36], [36], [36]]
    assert sum(Matched().plan(prices)) == 108
    uneven = [steps for [steps] in Few(2).plan(replace(prices, budget=1.015))]
    assert sum(uneven) == 91
    assert max(uneven) - min(uneven) == 1


def test_few_divides_a_members_share_into_cycles(source_ensemble, target_task, longer):
    prices = Prices.of(source_ensemble.architecture, target_task, longer, 3, 1.2)
    assert Few(1, [0.6, 0.2, 0.2]).plan(prices) == [[66, 21, 21]]  # what is left of 108 is the first's
    assert Few(2, [1, 1]).plan(replace(prices, budget=1.015)) == [[24, 22], [23, 22]]
    assert Few(2, [0.5, 0.5]).plan(replace(prices, budget=None)) == [[45, 45], [45, 45]]
    with pytest.raises(SettingError, match=r"^budget=0.05: .* a step of each cycle of members=1, .* 0.0556 fine"):
        Few(1, [0.6, 0.2, 0.2]).plan(replace(prices, budget=0.05))
    assert Few(1, [0.6, 0.2, 0.2]).plan(replace(prices, budget=0.0556)) == [[3, 1, 1]]
    with pytest.raises(SettingError, match=r"cycles=\[1, 0\]: must be lengths above 0"):
        Few(1, [1, 0])


def test_few_keeps_every_member_after_each_cycle(source_ensemble, target_task, longer, fitter):
    bench = Workbench(source_ensemble, target_task.sealed(), 0, longer, fitter, 1.0)
    result = Few(2, [0.6, 0.2, 0.2]).run(bench)
    kept = result.ensemble.members
    assert len(kept) == 6
    assert not any(equal(a, b) for place, a in enumerate(kept) for b in kept[:place])
    first = bench.unbilled().fine_tune_in(bench.first_encoders(2), [27, 27]).weights
    assert all(equal(a, b) for a, b in zip(kept[:2], first, strict=True))
    assert result.recipients == (0, 1)
    assert result.marginal().steps == 45  # one more member, with all its cycles
    assert {entry.phase for entry in result.ledger.entries} == {"full", "cycle"}


@pytest.mark.parametrize(
    ("budget", "cycles"), [(0.3, [27]), (0.6, [36, 18]), (1.0, [36, 18, 18, 18]), (None, [36, 18, 18, 18])]
)
def test_cycles_are_as_many_as_fit(budget, cycles, source_ensemble, target_task, longer):
    prices = Prices.of(source_ensemble.architecture, target_task, longer, 3, budget)
    assert Snapshots().plan(prices) == cycles
    assert Snapshots(members=2).plan(prices)[2:] == []
    assert sum(Snapshots(members=2).plan(prices)) == sum(cycles)


def test_a_snapshot_goes_on_from_the_one_before(source_ensemble, target_task, longer, fitter):
    bench = Workbench(source_ensemble, target_task.sealed(), 0, longer, fitter, 0.6)
    still = replace(bench, recipes=replace(longer, full=replace(longer.full, lr=1e-12)), ledger=Ledger())
    moved, unmoved = (Snapshots().run(bench).ensemble.members for bench in (bench, still))
    assert len(moved) == len(unmoved) == 2
    weight = next(name for name in moved[0] if name.endswith("conv1.weight"))
    assert not torch.equal(moved[0][weight], moved[1][weight])
    torch.testing.assert_close(unmoved[0][weight], unmoved[1][weight], rtol=0, atol=1e-9)
    assert list(bench.ledger.by_phase()) == ["full", "cycle"]


def test_star_and_snapshots_differ_only_in_where_a_cycle_starts(source_ensemble, target_task, longer, fitter):
    star, snapshots = (
        transfer_ensemble(strategy, source_ensemble, target_task.sealed(), 0, longer, fitter, 1.0)
        for strategy in (Star(), Snapshots())
    )
    steps = [[result.ledger.of_member(m).steps for m in range(4)] for result in (star, snapshots)]
    assert steps[0] == steps[1] == [36, 18, 18, 18]
    assert equal(star.ensemble.members[0], snapshots.ensemble.members[0])
    assert not equal(star.ensemble.members[2], snapshots.ensemble.members[2])


def test_a_star_with_whole_cycles_without_a_budget(source_ensemble, target_task, longer, fitter):
    result = transfer_ensemble(Star(cycle=0.2), source_ensemble, target_task.sealed(), 0, longer, fitter)
    assert [result.ledger.of_member(m).steps for m in range(3)] == [90, 18, 18]


def test_a_shift_within_a_budget_stretches_donor_and_recipients_alike(source_ensemble, target_task, longer):
    prices = Prices.of(source_ensemble.architecture, target_task, longer, 3, None)
    whole = Shift().plan(prices)
    assert (whole.members, whole.full, whole.tiny) == (3, longer.full, longer.tiny)
    spent = prices.full + 2 * (prices.statistics + prices.probe + prices.tiny)
    twice = Shift().plan(replace(prices, budget=2 * spent / prices.full))
    assert twice.full.steps > 2 * longer.full.steps
    assert twice.tiny.steps == stretched(longer.tiny, twice.full.steps / longer.full.steps).steps
    recipient = prices.statistics + prices.probe
    tight = Shift(finish="head").plan(replace(prices, budget=4.2 * recipient / prices.full))
    assert tight.members == 2  # a quarter of the budget pays for one recipient


def test_members_of_a_shift_can_be_fewer(source_ensemble, target_task, longer, fitter):
    whole, two = (
        transfer_ensemble(Shift(members=m), source_ensemble, target_task.sealed(), 0, longer, fitter).ensemble
        for m in (None, 2)
    )
    assert (len(whole), len(two)) == (3, 2)
    assert all(equal(a, b) for a, b in zip(two.members, whole.members[:2], strict=True))
    with pytest.raises(SettingError, match=r"members=4: must be at most ensemble\.size=3"):
        Shift(members=4).check(3, source_ensemble.architecture)


def test_a_member_added_to_a_shift_with_a_budget_gets_the_tiny_fine_tuning_of_the_run(
    source_ensemble: Ensemble, target_task, longer, fitter
):
    small = replace(source_ensemble, members=source_ensemble.members[:2])
    bench = Workbench(small, target_task.sealed(), 0, longer, fitter, 2.0)
    run = Shift().run(bench)
    assert run.shift.tiny == Shift().plan(bench.prices).tiny != longer.tiny
    later = Workbench(source_ensemble, target_task.sealed(), 0, longer, fitter)
    Shift().add(later, {2: later.encoders[2]}, run.shift, run.ensemble.members[:1])
    assert later.ledger.by_phase()["tiny"].steps == run.shift.tiny.steps
