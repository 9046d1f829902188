"""The options of the shift: donors, direction, finish, scales, and members that are added later."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import SettingError, Shift
from ensemble_transfer.transfer.shift.vector import learned
from ensemble_transfer.weights import add_scaled, below, floating, subtract


@pytest.fixture(scope="module")
def shift(transfer):
    return transfer(Shift())


@pytest.fixture(scope="module")
def random_shift(transfer):
    return transfer(Shift(direction="random"))


def test_a_random_shift_moves_every_learned_tensor_as_far_as_the_donor_moved(source_ensemble, shift, random_shift):
    moved = learned(shift.shift.vector)
    for member in (1, 2):
        before = below(source_ensemble.members[member], "encoder")
        after = {name: random_shift.shifted[member][name] for name in moved}
        for name, step in subtract(after, {name: before[name] for name in moved}).items():
            assert float(step.norm()) == pytest.approx(float(moved[name].norm()), rel=1e-4, abs=1e-6)
            assert float(moved[name].norm()) > 0
            assert not torch.allclose(step, moved[name], rtol=0.1)


def test_a_random_shift_shares_donor_and_budget_with_the_shift(shift, random_shift):
    assert equal(shift.ensemble.members[0], random_shift.ensemble.members[0])
    assert not equal(shift.ensemble.members[1], random_shift.ensemble.members[1])
    budgets = [
        [(e.phase, e.member, e.cost.steps, e.cost.flops) for e in r.ledger.entries] for r in (shift, random_shift)
    ]
    assert budgets[0] == budgets[1]
    assert random_shift.ensemble.history["strategy"] == "random_shift"


def test_zero_shot_leaves_the_shifted_encoders_alone(transfer, shift):
    result = transfer(Shift(finish="head"))
    for member in (1, 2):
        assert equal(below(result.ensemble.members[member], "encoder"), shift.shifted[member])
    assert "tiny" not in result.ledger.by_phase()
    assert "tiny" in shift.ledger.by_phase()
    assert equal(result.ensemble.members[0], shift.ensemble.members[0])
    assert result.ensemble.history["strategy"] == "zero_shot"


def test_a_random_head_that_nothing_trains_is_refused():
    with pytest.raises(SettingError, match="would stay random"):
        Shift(finish="head", head="fresh")


def test_a_recipient_is_shifted_by_the_scale_of_the_vector(bench, shift):
    strategy = Shift(finish="head", head="donor", statistics="reestimate")
    added = strategy.add(bench, {1: bench.encoders[1]}, replace(shift.shift, scale=0.5), shift.ensemble.members[:1])
    for name, vector in learned(shift.shift.vector).items():
        moved = added.shifted[1][name] - bench.encoders[1][name]
        torch.testing.assert_close(moved, 0.5 * vector, rtol=1e-4, atol=1e-6)
    assert any(vector.any() for vector in learned(shift.shift.vector).values())


@pytest.mark.parametrize(
    "strategy",
    [Shift(), Shift(donors=2, head="donor")],
    ids=["default", "two_donors"],
)
def test_a_member_added_later_is_the_one_of_the_start(source_ensemble, target_task, transfer, bench, strategy):
    whole = transfer(strategy)
    small = replace(source_ensemble, members=source_ensemble.members[:2])
    stored = transfer(strategy, small)
    donors = stored.ensemble.members[: strategy.donors]
    stored.shift.require_fit(source_ensemble, target_task)
    added = strategy.add(bench, {2: bench.encoders[2]}, stored.shift, donors)
    assert equal(added.weights[0], whole.ensemble.members[2])
    assert equal(added.shifted[2], whole.shifted[2])
    assert bench.ledger.total().flops == whole.ledger.of_member(2).flops


def test_shifts_of_two_donors_are_averaged(source_ensemble, transfer):
    result = transfer(Shift(donors=2))
    befores, afters = (
        [floating(below(w, "encoder")) for w in members[:2]]
        for members in (source_ensemble.members, result.ensemble.members)
    )
    for name, tensor in result.shift.vector.items():
        moves = [after[name] - before[name] for before, after in zip(befores, afters, strict=True)]
        torch.testing.assert_close(tensor, (moves[0] + moves[1]) / 2)


@pytest.mark.parametrize("statistics", ["shift", "reestimate"])
def test_statistics_after_the_shift(source_ensemble, transfer, statistics):
    result = transfer(Shift(statistics=statistics, finish="head", head="donor"))
    before = below(source_ensemble.members[1], "encoder")
    moved = add_scaled(before, result.shift.scaled())
    names = [name for name in before if name.endswith("running_mean")]
    after = result.shifted[1]
    assert not all(torch.equal(after[name], before[name]) for name in names)
    assert all(torch.equal(after[name], moved[name]) for name in names) == (statistics == "shift")
    assert all(bool((tensor >= 0).all()) for name, tensor in after.items() if name.endswith("running_var"))
