"""The search of scales: what it picks, what it costs, and what it does not look at."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.training.cost import Ledger
from ensemble_transfer.training.flops import encode_flops
from ensemble_transfer.training.losses import batch_loss
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.base import Transfer
from ensemble_transfer.transfer.shift.search import FEWEST, ScaleSearch, best_probed
from ensemble_transfer.transfer.shift.vector import layer_group, layer_groups
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.strategies.tiny import Tiny
from ensemble_transfer.weights import add_scaled, below, fingerprint, floating, joined, subtract


@pytest.fixture(scope="module")
def work(source_ensemble, target_task, recipes, fitter):
    return Transfer(source_ensemble, target_task.sealed(), 0, recipes, fitter)


@pytest.fixture(scope="module")
def donor(work):
    """A donor that has learned the task: its encoder before and its weights after."""
    longer = replace(work, recipes=replace(work.recipes, full=Recipe(60, lr=1e-2)))
    return work.encoders[0], longer.fine_tune_fully({0: work.encoders[0]}).weights[0]


@pytest.fixture(scope="module")
def own(donor):
    """What a search is given whose best scale is 1: the donor itself, its own shift and its own head."""
    before, after = donor
    return before, subtract(below(after, "encoder"), before), below(after, "head")


def away(own, only=""):
    """What a search is given whose best scale is 0: the donor after fine-tuning, and a way off."""
    before, vector, head = own
    off = {name: tensor if name.startswith(only) else torch.zeros_like(tensor) for name, tensor in vector.items()}
    return add_scaled(before, vector), {name: -tensor for name, tensor in off.items()}, head


@pytest.mark.parametrize(("start", "grid"), [(1.0, [0.0]), (0.0, [1.0, 0.0]), (0.3, [0.0, 1.0])])
def test_the_planted_best_is_found(work, own, start, grid):
    assert set(ScaleSearch(work, *own, 1e12).run(grid, start, False, Ledger()).values()) == {1.0}
    assert set(ScaleSearch(work, *away(own), 1e12).run(grid, start, False, Ledger()).values()) == {0.0}


def test_layer_groups_are_searched_one_by_one(work, own):
    planted = away(own, only="layer2")
    scales = ScaleSearch(work, *planted, 1e12).run([0.0, 1.0], 1.0, True, Ledger())
    assert scales.pop("layer2") == 0.0
    assert set(scales.values()) == {1.0}  # their tensors of the vector are 0: a tie


def test_ties_go_to_the_start(work, own):
    encoder, vector, head = own
    nothing = {name: torch.zeros_like(tensor) for name, tensor in vector.items()}
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in vector.items()}
    for flat in (nothing, broken):
        for by_layer in (False, True):
            search = ScaleSearch(work, encoder, flat, head, 1e12)
            assert set(search.run([0.5, 1.0, 2.0], 0.7, by_layer, Ledger()).values()) == {0.7}


@pytest.mark.parametrize("by_layer", [False, True])
def test_the_cost_is_in_the_ledger_and_within_the_budget(work, own, by_layer):
    encode, groups = encode_flops(work.architecture), len(layer_groups(own[1]))
    candidates = 1 + (groups if by_layer else 1) * 2
    for images, seen in ((36.5, 36), (1000, len(work.target.validation)), (1, FEWEST)):
        ledger = Ledger()
        ScaleSearch(work, *own, images * candidates * encode).run([0.5, 1.5], 1.0, by_layer, ledger)
        [entry] = ledger.entries
        assert (entry.phase, entry.member) == ("scale search", 0)
        assert entry.cost.examples == candidates * seen
        assert entry.cost.flops == candidates * seen * encode
        assert entry.cost.steps == 0


def test_the_budget_is_a_share_of_the_donors_fine_tuning(source_ensemble, target_task, recipes, fitter):
    def spent(**options):
        strategy = Shift(search="whole", scales=[0.5], finish="head", head="donor", statistics="keep", **options)
        return strategy.transfer(source_ensemble, target_task.sealed(), 0, recipes, fitter).ledger.by_phase()

    for donors in (1, 2):
        phases = spent(donors=donors, search_budget=0.07)
        share = phases["scale search"].flops / phases["full"].flops
        assert 0.03 < share <= 0.07


def test_validation_of_one_image_is_enough(source_ensemble, target_task, recipes, fitter):
    task = replace(target_task, validation=target_task.validation.take(torch.tensor([0])))
    strategy = Shift(search="whole", finish="head", head="donor", statistics="keep")
    result = strategy.transfer(source_ensemble, task.sealed(), 0, recipes, fitter)
    assert result.ledger.by_phase()["scale search"].examples == 4


def test_the_chosen_scales_are_those_of_the_vector(source_ensemble, target_task, recipes, fitter):
    strategy = Shift(scale=40.0, search="layers", scales=[0.0], finish="head", head="donor", statistics="keep")
    result = strategy.transfer(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    scales = result.shift.scales
    assert set(scales.values()) <= {0.0, 40.0}
    assert 0.0 in scales.values()
    before, after = below(source_ensemble.members[1], "encoder"), result.shifted[1]
    for name in floating(before):
        if scales[layer_group(name)] == 0.0:
            assert torch.equal(before[name], after[name])


def test_the_loss_that_is_searched_is_that_of_the_donors_head(work, own):
    encoder, vector, head = own
    validation = work.target.validation
    losses = [
        batch_loss(
            work.architecture,
            joined(encoder=add_scaled(encoder, vector, scale), head=head),
            validation.images,
            validation.labels,
            torch.device("cpu"),
        )[0]
        for scale in (0.0, 0.5, 0.9, 1.4)
    ]
    best = (0.0, 0.5, 0.9, 1.4)[losses.index(min(losses))]
    chosen = ScaleSearch(work, *own, 1e12).run([0.0, 0.5, 0.9, 1.4], 0.0, False, Ledger())
    assert set(chosen.values()) == {best}


def test_a_larger_ensemble_contains_the_smaller_with_a_search(source_ensemble, target_task, recipes, fitter):
    smaller = replace(source_ensemble, members=source_ensemble.members[:2])
    strategy = Shift(search="layers", scales=[0.5, 1.5], head="donor")
    one, other = (strategy.transfer(e, target_task, 0, recipes, fitter).ensemble for e in (smaller, source_ensemble))
    assert [fingerprint(member) for member in one.members] == [fingerprint(member) for member in other.members[:2]]


def test_probes_find_the_encoder_that_serves_a_new_head(work, own):
    encoder, vector, _ = own
    better, worse = {1: add_scaled(encoder, vector)}, {1: add_scaled(encoder, vector, 40.0)}
    tuned = replace(work, recipes=replace(work.recipes, probe=Recipe(40, lr=1e-2)))
    assert best_probed(tuned, {1.0: better, 0.0: worse}, Ledger()) == 1.0
    assert best_probed(tuned, {1.0: worse, 0.0: better}, Ledger()) == 0.0
    assert best_probed(tuned, {1.0: better, 0.0: better}, Ledger()) == 1.0  # a tie


def test_a_shift_that_harms_a_probe_is_not_made(source_ensemble, target_task, recipes, fitter):
    recipes = replace(recipes, probe=Recipe(40, lr=1e-2))
    task = target_task.sealed()
    result = Shift(scale=40.0, search="probe").transfer(source_ensemble, task, 0, recipes, fitter)
    tiny = Tiny().transfer(source_ensemble, task, 0, recipes, fitter)
    assert set(result.shift.scales.values()) == {0.0}
    for member in result.recipients:
        assert fingerprint(result.ensemble.members[member]) == fingerprint(tiny.ensemble.members[member])


def test_a_shift_that_probes_accept_is_the_one_without_a_search(source_ensemble, target_task, recipes, fitter):
    task = target_task.sealed()
    recipes = replace(recipes, full=Recipe(60, lr=1e-2), probe=Recipe(40, lr=1e-2))
    asked, plain = (
        Shift(search=search).transfer(source_ensemble, task, 0, recipes, fitter) for search in ("probe", "none")
    )
    assert set(asked.shift.scales.values()) == {1.0}
    assert asked.ensemble.fingerprint == plain.ensemble.fingerprint
    assert asked.marginal().flops == plain.marginal().flops
    phases, donor = asked.ledger.by_phase(), asked.ledger.of_member(0)
    recipients = len(asked.recipients)
    each = (phases["statistics"].flops + phases["probe"].flops) / recipients
    validation = len(task.validation) * encode_flops(source_ensemble.architecture)
    assert phases["scale search"].flops == 2 * (each + validation)
    assert donor.flops == phases["full"].flops + phases["scale search"].flops
