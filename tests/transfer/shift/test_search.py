"""Whether to shift at all: what is chosen, and what it costs."""

from dataclasses import replace

import torch

from ensemble_transfer.training.flops import encode_flops
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.shift.search import best_probed
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.strategies.tiny import Tiny
from ensemble_transfer.weights import below, fingerprint


def test_probes_find_the_encoder_that_serves_a_new_head(bench):
    tuned = replace(bench, recipes=replace(bench.recipes, full=Recipe(60, lr=1e-2), probe=Recipe(40, lr=1e-2)))
    learned = below(tuned.fine_tune_fully({0: bench.encoders[0]}).weights[0], "encoder")
    better, worse = {1: learned}, {1: {name: torch.zeros_like(tensor) for name, tensor in learned.items()}}
    assert best_probed(tuned, {1.0: better, 0.0: worse}) == 1.0
    assert best_probed(tuned, {1.0: worse, 0.0: better}) == 0.0
    assert best_probed(tuned, {1.0: better, 0.0: better}) == 1.0  # a tie


def test_a_shift_that_harms_a_probe_is_not_made(transfer):
    result, tiny = (transfer(s, probe=Recipe(40, lr=1e-2)) for s in (Shift(scale=40.0, if_better=True), Tiny()))
    assert set(result.shift.scales.values()) == {0.0}
    for member in result.recipients:
        assert fingerprint(result.ensemble.members[member]) == fingerprint(tiny.ensemble.members[member])


def test_a_shift_that_probes_accept_is_the_one_without_a_search(source_ensemble, target_task, transfer):
    longer = {"full": Recipe(60, lr=1e-2), "probe": Recipe(40, lr=1e-2)}
    asked, plain = (transfer(Shift(if_better=asked), **longer) for asked in (True, False))
    assert set(asked.shift.scales.values()) == {1.0}
    assert asked.ensemble.fingerprint == plain.ensemble.fingerprint
    assert asked.marginal().flops == plain.marginal().flops
    phases = asked.ledger.by_phase()
    recipients = len(asked.recipients)
    each = (phases["statistics"].flops + phases["probe"].flops) / recipients
    validation = len(target_task.validation) * encode_flops(source_ensemble.architecture)
    assert phases["scale search"].flops == 2 * (each + validation)
    assert asked.ledger.of_member(0).flops == phases["full"].flops  # what is chosen for all is billed to nobody
