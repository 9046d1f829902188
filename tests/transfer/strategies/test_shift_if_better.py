"""Whether to shift at all: what is chosen, and what it costs."""

import torch
from same import equal

from ensemble_transfer import Recipe, Shift, Tiny, Workbench
from ensemble_transfer.models.flops import encode_flops

PROBE = Recipe(40, lr=1e-2)


def test_a_shift_that_harms_a_probe_is_not_made(transfer):
    result, tiny = (transfer(strategy, probe=PROBE) for strategy in (Shift(scale=40.0, if_better=True), Tiny()))
    assert result.shift.scale == 0.0
    for member in result.recipients:
        assert equal(result.ensemble.members[member], tiny.ensemble.members[member])


def test_a_shift_that_probes_accept_is_the_one_without_a_search(transfer, target_task):
    full = Recipe(60, lr=1e-2)
    asked, plain = (transfer(Shift(if_better=asked), full=full, probe=PROBE) for asked in (True, False))
    assert asked.shift.scale == 1.0
    assert asked.ensemble.fingerprint == plain.ensemble.fingerprint
    assert asked.marginal().flops == plain.marginal().flops
    phases = asked.ledger.by_phase()
    recipients = len(asked.recipients)
    each = (phases["statistics"].flops + phases["probe"].flops) / recipients
    validation = len(target_task.validation) * encode_flops(asked.ensemble.architecture)
    assert phases["scale search"].flops == 2 * (each + validation)
    assert asked.ledger.of_member(0).flops == phases["full"].flops  # what is chosen for all is billed to nobody


def test_a_tie_is_for_the_shift(transfer, monkeypatch):
    monkeypatch.setattr(Workbench, "look", lambda *_: torch.ones(1, 1, 5))
    assert transfer(Shift(if_better=True)).shift.scale == 1.0
