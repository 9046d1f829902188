"""The strategy ``auto``: which learning rate it takes, how it divides its budget, and what it tells."""

from dataclasses import replace
from math import log

import pytest
import torch

from ensemble_transfer import Few, Recipe, Recipes, SettingError, Workbench
from ensemble_transfer.transfer.choice import Candidate
from ensemble_transfer.transfer.strategies import auto
from ensemble_transfer.transfer.strategies.auto import Auto, Pilot

MEASURED = {  # training losses of pilots of 19 steps at .01 / 9, / 3, x 1, x 3 and x 9; classes
    "letters -> font digits": ((1.680, 1.012, 0.233, 0.079, 1.910), 10),
    "letters -> Hebrew": ((2.843, 2.127, 1.163, 0.835, 2.486), 27),
    "MNIST -> Fashion-MNIST": ((1.915, 1.441, 0.994, 1.031, 1.363), 10),
    "digits -> MNIST": ((2.005, 1.520, 0.959, 0.971, 1.744), 10),
}


@pytest.fixture(scope="module")
def longer(recipes) -> Recipes:
    """Recipes whose full fine-tuning is long enough for pilots."""
    return replace(recipes, full=Recipe(160, lr=1e-2), head=Recipe(8, lr=1e-2))


def rates(bench, monkeypatch, losses, classes, own):
    """Return the rates that are taken, and those that were tried, if pilots have given losses at .01 times 3 ** n."""

    def pilot(_, lr, steps):
        place = 2 + round(log(lr / 0.01, 3))
        training = losses[place] if 0 <= place < len(losses) else 99.0 + steps
        return Pilot(lr, training, max(0.0, log(classes) - training))

    monkeypatch.setattr(auto, "_pilot", pilot)
    recipes = replace(bench.recipes, full=replace(bench.recipes.full, lr=own))
    pilots, taken = Auto()._rates(replace(bench, recipes=recipes), 19)
    return taken, [pilot.lr for pilot in pilots]


@pytest.fixture
def bench(bench, longer) -> Workbench:
    return replace(bench, recipes=longer, budget=1.3)


@pytest.mark.parametrize("wrong", [1, 3, 1 / 3])
@pytest.mark.parametrize("pair", MEASURED)
def test_the_same_rates_are_found_from_one_three_times_too_high_or_too_low(bench, monkeypatch, pair, wrong):
    taken, tried = rates(bench, monkeypatch, *MEASURED[pair], 0.01 * wrong)
    assert taken == pytest.approx([0.01, 0.03])
    assert len(tried) == (2 if wrong == 1 else 3)


def test_a_lower_rate_is_tried_where_both_are_too_high(bench, monkeypatch):
    losses, classes = MEASURED["letters -> Hebrew"]  # nothing is known above .09, where a pilot learns a little
    taken, tried = rates(bench, monkeypatch, losses, classes, 0.27)
    assert tried == pytest.approx([0.27, 0.81, 0.09])
    assert taken == pytest.approx([0.09])
    none_learns = (9.0, 4.0, 6.0, 7.0, 8.0)
    assert rates(bench, monkeypatch, none_learns, 10, 0.01)[0] == pytest.approx([0.01 / 3])


def test_a_third_rate_is_tried_in_the_direction_that_is_clearly_ahead(bench, monkeypatch):
    losses, classes = MEASURED["letters -> Hebrew"]
    assert rates(bench, monkeypatch, losses, classes, 0.01 / 9)[1] == pytest.approx([0.01 / 9, 0.01 / 3, 0.01])
    assert rates(bench, monkeypatch, losses, classes, 0.03)[1] == pytest.approx([0.03, 0.09, 0.01])


def test_where_no_pilot_learns_the_rate_of_the_recipe_is_kept(bench, monkeypatch):
    assert rates(bench, monkeypatch, (9.0,) * 5, 10, 0.01)[0] == [0.01]


def test_a_pilot_that_diverges_is_billed_and_loses_and_auto_tells_what_it_tried(transfer, bench, longer):
    result = transfer(Auto(1e30), budget=1.3, recipes=longer, full=replace(longer.full, optimizer="sgd"))
    choice, prices = result.decisions["choice"], bench.prices
    assert [pilot["training"] is None for pilot in choice["pilots"]][:2] == [False, True]
    assert [pilot["taken"] for pilot in choice["pilots"]][:2] == [True, False]
    assert result.ledger.by_phase()["pilot"].flops == len(choice["pilots"]) * 10 * prices.step
    assert result.ledger.by_phase()["pilot"].steps == len(choice["pilots"]) * 10
    finished, diverged = [entry.cost for entry in result.ledger.entries if entry.phase == "pilot"][:2]
    assert diverged.examples == finished.examples
    assert min(diverged.seconds, diverged.cpu_seconds, diverged.peak_memory_bytes) > 0
    [taken] = [candidate for candidate in choice["candidates"] if candidate["taken"]]
    assert taken["nll"] == min(candidate["nll"] for candidate in choice["candidates"])
    assert taken["members"] == len(result.ensemble)
    assert choice["candidates"][0]["name"] == "heads alone"
    assert {pilot["steps"] for pilot in choice["pilots"]} == {10}  # a sixteenth of 160
    assert {pilot["lr"] for pilot in choice["pilots"] if pilot["taken"]} >= set(choice["lr"])
    assert {"head", "pilot", "full", "choice"} == result.ledger.by_phase().keys()


def test_a_setting_other_than_the_rate_that_a_pilot_refuses_is_not_taken_for_divergence(bench, monkeypatch):
    def refuse(*_):
        raise SettingError("recipe.full.clip", -1, "must be above 0")

    monkeypatch.setattr(Workbench, "fine_tune_in", refuse)
    with pytest.raises(SettingError, match=r"recipe\.full\.clip"):
        auto._pilot(bench, 0.01, 10)


def test_members_are_fine_tuned_with_the_rates_that_were_taken_in_turns(transfer, bench, longer, monkeypatch):
    monkeypatch.setattr(auto, "_pilot", lambda _, lr, steps: Pilot(lr, 1 / steps, {0.01: 1.0, 0.03: 0.9}.get(lr, 0.1)))
    result = transfer(Auto(), budget=1.3, recipes=longer)
    choice, keys = result.decisions["choice"], [entry.key for entry in result.ledger.entries if entry.phase == "full"]
    assert choice["lr"] == pytest.approx([0.01, 0.03, 0.01])
    for member, (lr, steps) in enumerate(zip(choice["lr"], choice["steps"], strict=True)):
        own = replace(bench, recipes=replace(longer, full=replace(longer.full, lr=lr)), budget=None)
        [fitted] = own.fine_tune_in([member], [steps]).fitted
        assert fitted.key in keys


def test_heads_and_members_join_only_where_neither_is_clearly_better():
    labels = torch.arange(40) % 2
    right = torch.nn.functional.one_hot(labels, 2) * 0.8 + 0.1
    errs_first, errs_last = right.clone(), right.clone()
    errs_first[0], errs_last[-1] = right[1], right[0]
    named = {"strong": errs_first, "alike": errs_last, "weak": right.roll(1, 0)}
    strong, alike, weak = (Candidate(name, [{}], probabilities[None]) for name, probabilities in named.items())
    assert [found.name for found in auto._with_both(weak, strong, labels)] == ["weak", "strong"]
    assert [found.name for found in auto._with_both(strong, weak, labels)] == ["strong", "weak"]
    assert [len(found.members) for found in auto._with_both(alike, strong, labels)] == [1, 1, 2]


def test_members_are_as_many_as_see_every_image_seven_times(bench):
    prices = replace(bench.prices, members=8, budget=2.0, validation=20)

    def steps(examples, flops=prices.limit, **change):
        return auto._lengths(replace(prices, examples=examples, **change), flops)

    assert [len(steps(examples)) for examples in (32, 256, 480, 2000)] == [8, 5, 3, 2]
    assert len(steps(32, members=3)) == 3
    assert min(steps(256)) * 32 >= 7 * 256
    assert max(steps(256)) - min(steps(256)) <= 1
    assert steps(32, prices.step + prices.look) == [1]


def test_pilots_are_left_out_where_they_are_too_short_or_not_wanted(bench):
    prices = replace(bench.prices, budget=1.0)
    assert Auto().plan(prices).pilot == 10
    assert Auto().plan(replace(prices, budget=4.0)).pilot == 10
    assert Auto().plan(replace(prices, budget=0.9)).pilot == 0
    assert Auto(1.0).plan(prices).pilot == 0


@pytest.mark.parametrize("factor", [0.5, 0.0, -3.0, float("inf"), float("nan")])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(SettingError, match="factor"):
        Auto(factor)


def test_auto_spends_a_budget_that_heads_would_eat_on_one_member(transfer, bench, longer):
    dear = 5 * bench.prices.head / bench.prices.full
    alone, few = (transfer(strategy, budget=dear, recipes=longer) for strategy in (Auto(), Few(1)))
    assert alone.ensemble.fingerprint == few.ensemble.fingerprint
    assert alone.ledger.total() == few.ledger.total()
    assert alone.decisions["choice"]["candidates"] == []
