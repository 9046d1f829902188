"""What sets the strategies apart, beyond the invariants."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.strategies.diagnostics import diagnose_shift
from ensemble_transfer.strategies.full import Full
from ensemble_transfer.strategies.matched import Matched
from ensemble_transfer.strategies.shift import Shift
from ensemble_transfer.strategies.tiny import Tiny
from ensemble_transfer.strategies.transfer import Transfer
from ensemble_transfer.training.flops import step_flops
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.weights import below, norm


@pytest.mark.parametrize("donors", [1, 2])
@pytest.mark.parametrize("full_steps", [12, 31])
def test_matched_spends_what_shift_spends(source_ensemble, target_task, recipes, fitter, donors, full_steps):
    recipes = replace(recipes, full=Recipe(full_steps))
    matched = Matched(donors).transfer(source_ensemble, target_task, 0, recipes, fitter)
    shift = Shift(donors).transfer(source_ensemble, target_task, 0, recipes, fitter)
    step = 32 * step_flops(matched.ensemble.architecture)
    assert 0 <= shift.ledger.total().flops - matched.ledger.total().flops < step
    steps = [matched.ledger.of_member(member).steps for member in range(3)]
    assert max(steps) - min(steps) <= 1
    assert len(matched.ensemble) == 3


def test_donors_are_members_of_full(source_ensemble, target_task, recipes, fitter):
    full = Full().transfer(source_ensemble, target_task, 0, recipes, fitter).ensemble
    shift = Shift(donors=2).transfer(source_ensemble, target_task, 0, recipes, fitter).ensemble
    for member, same in ((0, True), (1, True), (2, False)):
        pairs = zip(full.members[member].values(), shift.members[member].values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == same


def test_without_recipients_there_is_no_marginal_cost(source_ensemble, target_task, recipes, fitter):
    result = Shift(donors=3).transfer(source_ensemble, target_task, 0, recipes, fitter)
    assert result.marginal() is None
    assert len(result.ensemble) == 3
    assert result.shift is not None
    work = Transfer(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    metrics = diagnose_shift(work, result, result.shift)
    assert -1 <= metrics["shift/donor_cosine"] <= 1
    assert "shift/probe_gain" not in metrics


def test_more_donors_than_members_are_refused(source_ensemble, target_task, recipes, fitter):
    for strategy in (Shift(donors=4), Matched(donors=4)):
        with pytest.raises(ValueError, match=r"donors=4: must be at most ensemble\.size=3"):
            strategy.transfer(source_ensemble, target_task, 0, recipes, fitter)


def test_the_marginal_cost_is_a_recipients(source_ensemble, target_task, recipes, fitter):
    marginal = Shift().transfer(source_ensemble, target_task, 0, recipes, fitter).marginal()
    assert marginal is not None
    assert marginal.steps == 10 + 3
    assert Full().transfer(source_ensemble, target_task, 0, recipes, fitter).marginal().steps == 12


def test_scale_zero_is_tiny_for_recipients(source_ensemble, target_task, recipes, fitter):
    still = Shift(scale=0.0).transfer(source_ensemble, target_task, 0, recipes, fitter).ensemble
    tiny = Tiny().transfer(source_ensemble, target_task, 0, recipes, fitter).ensemble
    for member in (1, 2):
        pairs = zip(still.members[member].values(), tiny.members[member].values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("head", ["probe", "donor", "fresh"])
def test_the_head_starts_where_the_option_says(source_ensemble, target_task, recipes, fitter, head):
    untouched = replace(recipes, tiny=Recipe(0))
    result = Shift(head=head).transfer(source_ensemble, target_task, 0, untouched, fitter)
    donor, *others = (below(member, "head")["weight"] for member in result.ensemble.members)
    assert all(torch.equal(donor, other) for other in others) == (head == "donor")
    assert ("probe" in result.ledger.by_phase()) == (head == "probe")


def test_diagnostics_compare_with_a_vector_of_the_same_norm(source_ensemble, target_task, recipes, fitter):
    result = Shift().transfer(source_ensemble, target_task, 0, recipes, fitter)
    work = Transfer(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    metrics = diagnose_shift(work, result, result.shift)
    gain = metrics["shift/probe_accuracy"] - metrics["shift/probe_accuracy_no_shift"]
    assert metrics["shift/probe_gain"] == pytest.approx(gain)
    learned = {n: t for n, t in result.shift.vector.items() if "running" not in n}
    assert metrics["shift/norm"] == pytest.approx(norm(learned))
    assert 0 <= metrics["shift/zero_shot_accuracy"] <= 1
