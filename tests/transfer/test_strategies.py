"""What sets the strategies apart, beyond the invariants."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import Full, Recipe, SettingError, Shift, Tiny, Turns
from ensemble_transfer.models.ensemble import COPIES
from ensemble_transfer.runs.evaluation import (
    EvaluationSettings,
    Tasks,
    metrics_of,
    predict_soup,
    predict_source,
    predict_target,
)
from ensemble_transfer.runs.presets import conf_folder, preset_names
from ensemble_transfer.runs.settings import preset_object
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.transfer.base import ROLES, check_strategy
from ensemble_transfer.transfer.shift import diagnostics
from ensemble_transfer.transfer.shift.diagnostics import batch_loss, shift_line, source_barrier
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import add_scaled, below, joined, norm, subtract


@pytest.mark.parametrize("name", preset_names("strategy"))
def test_a_strategy_says_itself_what_its_configuration_and_records_say(name):
    strategy = preset_object("strategy", name)
    first, *_ = (conf_folder() / "strategy" / f"{name}.yaml").read_text().splitlines()
    assert (strategy.name, f"# {strategy.about}") == (name, first)
    assert strategy.role in ROLES


@pytest.mark.parametrize(("missing", "value"), [("about", None), ("role", "winner")])
def test_a_strategy_that_does_not_say_what_it_is_is_refused(missing, value):
    unsaid = type("Unsaid", (Tiny,), {missing: value})()
    with pytest.raises(SettingError, match=r"^strategy='tiny': needs `about`, .* `role`, one of method, rival, "):
        check_strategy(unsaid, 3, None, COPIES, None)


def test_donors_are_members_of_full(transfer):
    full = transfer(Full()).ensemble
    shift = transfer(Shift(donors=2)).ensemble
    for member, same in ((0, True), (1, True), (2, False)):
        assert equal(full.members[member], shift.members[member]) == same


def test_without_recipients_there_is_no_marginal_cost(transfer, bench):
    result = transfer(Shift(donors=3))
    assert result.marginal() is None
    assert len(result.ensemble) == 3
    assert result.shift is not None
    metrics, curves = result.diagnose(bench)
    assert -1 <= metrics["shift/donor_cosine"] <= 1
    assert "shift/probe_gain" not in metrics
    assert curves["shift_line"] == {"scale": [], "loss": [], "accuracy": []}


def test_the_marginal_cost_is_a_recipients(transfer):
    marginal = transfer(Shift()).marginal()
    assert marginal is not None
    assert marginal.steps == 10 + 3
    assert transfer(Full()).marginal().steps == 12


@pytest.mark.parametrize("head", ["probe", "donor", "fresh"])
def test_the_head_starts_where_the_option_says(transfer, head):
    result = transfer(Shift(head=head), tiny=Recipe(1, lr=1e-30))
    donor, *others = (below(member, "head")["weight"] for member in result.ensemble.members)
    assert all(torch.equal(donor, other) for other in others) == (head == "donor")
    assert ("probe" in result.ledger.by_phase()) == (head == "probe")


def test_diagnostics_compare_with_a_vector_of_the_same_norm(transfer, bench):
    result = transfer(Shift())
    metrics = result.diagnose(bench)[0]
    gain = metrics["shift/probe_accuracy"] - metrics["shift/probe_accuracy_no_shift"]
    assert metrics["shift/probe_gain"] == pytest.approx(gain)
    learned = {n: t for n, t in result.shift.vector.items() if "running" not in n}
    assert metrics["shift/norm"] == pytest.approx(norm(learned))
    share = norm(learned) / norm({name: bench.encoders[0][name] for name in learned})
    assert metrics["shift/relative_norm"] == pytest.approx(share)
    assert 0 <= metrics["shift/zero_shot_accuracy"] <= 1


def test_the_line_of_the_shift_goes_from_the_loss_before_to_the_loss_after(transfer, bench, target_task):
    result = transfer(Shift())
    line = shift_line(bench, result.ensemble.members[0], result.shifted)
    head, validation = below(result.ensemble.members[0], "head"), target_task.validation
    for scale, encoders in ((0.0, bench.encoders), (1.0, result.shifted)):
        weights = [joined(encoder=encoders[member], head=head) for member in (1, 2)]
        found = [
            batch_loss(bench.architecture.classifier(w), validation.images, validation.labels, torch.device("cpu"))
            for w in weights
        ]
        place = line["scale"].index(scale)
        assert line["loss"][place] == pytest.approx(sum(loss for loss, _ in found) / 2, abs=1e-4)
        assert line["accuracy"][place] == pytest.approx(sum(accuracy for _, accuracy in found) / 2)
    assert len(set(line["loss"])) == len(line["loss"])


def test_the_barrier_is_the_rise_between_members(source_ensemble, source_task, settings):
    def barrier(*members):
        return source_barrier(
            replace(source_ensemble, members=members), source_task.sealed().validation, settings.device
        )

    one, two, three = source_ensemble.members
    assert barrier(one, one) == pytest.approx(0, abs=1e-5)
    assert barrier(one) != barrier(one)  # NaN
    far = source_ensemble.architecture.initial(99)
    validation = source_task.validation
    losses = [
        batch_loss(source_ensemble.architecture.classifier(w), validation.images, validation.labels, settings.device)[0]
        for w in (add_scaled(one, subtract(far, one), place) for place in (0.0, 0.25, 0.5, 0.75, 1.0))
    ]
    rises = [loss - losses[0] + i / 4 * (losses[0] - losses[4]) for i, loss in enumerate(losses)]
    assert max(rises) > 0.01
    assert barrier(one, far) == pytest.approx(max(rises), abs=1e-5)
    pairs = [barrier(one, two), barrier(one, three), barrier(two, three)]
    assert barrier(one, two, three) == pytest.approx(sum(pairs) / 3, abs=1e-6)


def test_a_soup_has_metrics_of_its_own_and_that_of_twins_is_the_twin(
    source_ensemble, source_task, target_task, settings
):
    twins = replace(source_ensemble, members=source_ensemble.members[:1] * 2)
    arrays = predict_source(twins, source_task, settings.device)
    arrays |= predict_target(twins, Tasks(source_task, target_task, {}), EvaluationSettings(), settings.device)
    soup = replace(twins, members=twins.members[:1])
    metrics = metrics_of(arrays | predict_soup(soup, target_task, settings.device))
    for metric in ("accuracy", "nll", "brier"):
        assert metrics[f"target/test/soup/{metric}"] == pytest.approx(metrics[f"target/test/ensemble/{metric}"])
    assert metrics["target/test/soup/ece"] == pytest.approx(metrics["target/test/calibration/ece"])
    assert not any("soup" in name for name in metrics_of(arrays))


@pytest.mark.parametrize("strategy", [Shift(), Tiny(), Turns(members=3)], ids=["shift", "tiny", "turns"])
def test_where_fine_tuning_keeps_the_statistics_nobody_estimates_any(
    transfer, source_ensemble, target_task, recipes, strategy
):
    frozen = {name: replace(getattr(recipes, name), batchnorm="frozen") for name in ("full", "tiny")}
    plain, kept = transfer(strategy), transfer(strategy, **frozen)
    assert plain.ledger.by_phase()["statistics"].flops > 0
    assert "statistics" not in kept.ledger.by_phase()
    target = target_task.sealed()
    prices = [Workbench(source_ensemble, target, 0, r).prices.statistics for r in (recipes, replace(recipes, **frozen))]
    assert prices[0] > prices[1] == 0
    assert kept.ledger.total().flops < plain.ledger.total().flops
    for member, before in zip(kept.ensemble.members, source_ensemble.members, strict=True):
        statistics = [name for name in before if is_statistic(name)]
        assert statistics
        assert all(torch.equal(member[name], before[name]) for name in statistics)


def test_losses_between_members_of_the_same_statistics_use_these(source_ensemble, source_task, settings, monkeypatch):
    used = []

    def recorded(*arguments):
        used.append(arguments[-1])
        return batch_loss(*arguments)

    monkeypatch.setattr(diagnostics, "batch_loss", recorded)
    first = source_ensemble.members[0]
    same = [{n: first[n] if is_statistic(n) else t for n, t in member.items()} for member in source_ensemble.members]
    for members, frozen in ((same, True), (source_ensemble.members, False)):
        used.clear()
        source_barrier(replace(source_ensemble, members=tuple(members)), source_task.validation, settings.device)
        assert {*used} == {frozen}
