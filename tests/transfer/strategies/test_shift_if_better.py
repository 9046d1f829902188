"""Whether to shift at all: what is chosen, and what it costs."""

from dataclasses import replace

from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.base import Workbench, transfer_ensemble
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.strategies.tiny import Tiny
from ensemble_transfer.weights import fingerprint


def test_a_shift_that_harms_a_probe_is_not_made(source_ensemble, target_task, recipes, fitter):
    recipes = replace(recipes, probe=Recipe(40, lr=1e-2))
    task = target_task.sealed()
    result = transfer_ensemble(Shift(scale=40.0, if_better=True), source_ensemble, task, 0, recipes, fitter)
    tiny = transfer_ensemble(Tiny(), source_ensemble, task, 0, recipes, fitter)
    assert result.shift.scale == 0.0
    for member in result.recipients:
        assert fingerprint(result.ensemble.members[member]) == fingerprint(tiny.ensemble.members[member])


def test_a_shift_that_probes_accept_is_the_one_without_a_search(source_ensemble, target_task, recipes, fitter):
    task = target_task.sealed()
    recipes = replace(recipes, full=Recipe(60, lr=1e-2), probe=Recipe(40, lr=1e-2))
    asked, plain = (
        transfer_ensemble(Shift(if_better=asked), source_ensemble, task, 0, recipes, fitter) for asked in (True, False)
    )
    assert asked.shift.scale == 1.0
    assert asked.ensemble.fingerprint == plain.ensemble.fingerprint
    assert asked.marginal().flops == plain.marginal().flops
    phases = asked.ledger.by_phase()
    recipients = len(asked.recipients)
    each = (phases["statistics"].flops + phases["probe"].flops) / recipients
    validation = len(task.validation) * encode_flops(source_ensemble.architecture)
    assert phases["scale search"].flops == 2 * (each + validation)
    assert asked.ledger.of_member(0).flops == phases["full"].flops  # what is chosen for all is billed to nobody


def test_a_tie_is_for_the_shift(source_ensemble, target_task, recipes, fitter, monkeypatch):
    monkeypatch.setattr(Workbench, "validation_accuracy", lambda *_: 0.5)
    result = transfer_ensemble(Shift(if_better=True), source_ensemble, target_task.sealed(), 0, recipes, fitter)
    assert result.shift.scale == 1.0
