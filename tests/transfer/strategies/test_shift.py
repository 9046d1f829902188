"""The options of the shift: direction, finish, scales, alignment, and members that are added later."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.losses import batch_loss
from ensemble_transfer.transfer.base import Workbench, transfer_ensemble
from ensemble_transfer.transfer.shift.alignment import channel_groups, permuted, permuted_head
from ensemble_transfer.transfer.shift.vector import layer_group, learned
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.weights import add_scaled, below, joined, subtract

CPU = torch.device("cpu")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b, tolerance=1e-6):
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=tolerance, atol=tolerance) for n in a)


@pytest.fixture(scope="module")
def transfer(source_ensemble, target_task, recipes, fitter):
    """Transfer the source ensemble to the sealed target, which no option may read the test split of."""

    def run(strategy, source=source_ensemble, **changed):
        return transfer_ensemble(strategy, source, target_task.sealed(), 0, replace(recipes, **changed), fitter)

    return run


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


def test_each_layer_group_is_shifted_by_its_own_scale(source_ensemble, target_task, recipes, fitter, shift):
    bench = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    scales = dict.fromkeys(shift.shift.scales, 0.0) | {"layer2": 0.5, "layer3": 2.0}
    strategy = Shift(finish="head", head="donor", statistics="reestimate")
    added = strategy.add(bench, {1: bench.encoders[1]}, replace(shift.shift, scales=scales), shift.ensemble.members[:1])
    for name, vector in learned(shift.shift.vector).items():
        moved = added.shifted[1][name] - bench.encoders[1][name]
        torch.testing.assert_close(moved, scales[layer_group(name)] * vector, rtol=1e-4, atol=1e-6)
        assert name.startswith(("layer2", "layer3")) == bool(moved.any())


@pytest.mark.parametrize(
    "strategy",
    [Shift(), Shift(donors=2, head="donor"), Shift(align="weights", finish="head", statistics="shift")],
    ids=["default", "two_donors", "aligned"],
)
def test_a_member_added_later_is_the_one_of_the_start(
    source_ensemble, target_task, recipes, fitter, transfer, strategy
):
    whole = transfer(strategy)
    small = replace(source_ensemble, members=source_ensemble.members[:2])
    stored = transfer(strategy, small)
    bench = Workbench(source_ensemble, target_task.sealed(), 0, recipes, fitter)
    donors = stored.ensemble.members[: strategy.donors]
    stored.shift.require_fit(source_ensemble, target_task)
    added = strategy.add(bench, {2: bench.encoders[2]}, stored.shift, donors)
    assert equal(added.weights[0], whole.ensemble.members[2])
    assert equal(added.shifted[2], whole.shifted[2])
    assert bench.ledger.total().flops == whole.ledger.of_member(2).flops


@pytest.fixture(scope="module")
def twins(source_ensemble):
    """A source ensemble whose member 1 is member 0 with its channels permuted, and the permutation."""
    groups = channel_groups(source_ensemble.architecture)
    draws = torch.Generator().manual_seed(3)
    order = {group: torch.randperm(group.size, generator=draws) for group in groups}
    one = source_ensemble.members[0]
    other = joined(
        encoder=permuted(below(one, "encoder"), groups, order), head=permuted_head(below(one, "head"), order)
    )
    return replace(source_ensemble, members=(one, other)), groups, order


@pytest.mark.parametrize("align", ["weights", "activations", "none"])
def test_an_aligned_shift_gives_a_permuted_copy_the_permuted_donor(twins, transfer, align):
    source, groups, order = twins
    strategy = Shift(align=align, head="donor", finish="head", statistics="shift")
    result = transfer(strategy, source)
    donor, recipient = result.ensemble.members
    wanted = joined(
        encoder=permuted(below(donor, "encoder"), groups, order), head=permuted_head(below(donor, "head"), order)
    )
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    wanted |= {name: recipient[name] for name in counters}
    assert close(wanted, recipient, 1e-5) == (align != "none")
    assert ("alignment" in result.ledger.by_phase()) == (align != "none")
    encoded = result.ledger.by_phase()["alignment"].examples if align != "none" else 0
    assert encoded == (200 if align == "activations" else 0)


def test_diagnostics_see_an_aligned_recipient_under_the_aligned_head(twins, target_task, recipes, fitter, transfer):
    source, *_ = twins
    result = transfer(Shift(align="weights", finish="head", statistics="shift"), source)
    bench = Workbench(source, target_task.sealed(), 0, recipes, fitter)
    images, labels = target_task.validation.images, target_task.validation.labels
    donor = result.ensemble.members[0]
    accuracy = float((result.ensemble.predict(images)[0].argmax(-1) == labels).double().mean())
    metrics, curves = result.diagnose(bench)
    assert metrics["shift/zero_shot_accuracy"] == pytest.approx(accuracy)
    line = curves["shift_line"]

    def loss(head):
        return batch_loss(bench.architecture, joined(encoder=result.shifted[1], head=head), images, labels, CPU)[0]

    whole, _ = batch_loss(bench.architecture, donor, images, labels, CPU)
    assert line["loss"][line["scale"].index(1.0)] == pytest.approx(whole, abs=1e-4)
    assert loss(result.donor_heads[1]) == pytest.approx(whole, abs=1e-4)
    assert loss(below(donor, "head")) != pytest.approx(whole, abs=1e-3)  # not aligned


def test_shifts_of_two_donors_are_averaged_in_the_coordinates_of_the_first(twins, transfer):
    source, groups, order = twins
    result = transfer(Shift(donors=2, align="weights"), source)
    moves = [
        subtract(below(after, "encoder"), below(before, "encoder"))
        for before, after in zip(source.members, result.ensemble.members, strict=True)
    ]
    back = {group: order[group].argsort() for group in groups}
    wanted = {n: (moves[0][n] + t) / 2 for n, t in permuted(moves[1], groups, back).items()}
    assert close({n: result.shift.vector[n] for n in wanted}, wanted, 1e-5)


def test_an_encoder_that_cannot_be_aligned_is_refused_before_any_training(source_ensemble, monkeypatch, transfer):
    def refuse(_):
        raise SettingError("align", "net", "cannot have its channels permuted")

    monkeypatch.setattr("ensemble_transfer.transfer.strategies.shift.channel_groups", refuse)
    monkeypatch.setattr(Workbench, "fine_tune_fully", lambda *_: pytest.fail("something was trained"))
    Shift().check(3, source_ensemble.architecture)
    with pytest.raises(SettingError, match="align='net'"):
        transfer(Shift(align="weights"))


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
