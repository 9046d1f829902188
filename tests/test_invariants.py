"""The invariants of the design, each where it can fail.

Others stand beside what they are about: 9 in test_kills.py, 10 in training/test_workers.py and test_fit.py, 11 in
transfer/test_budget.py and test_promises_of_budgets.py, 12 in test_tensor_files.py, models/test_ensemble.py and
metrics/test_archive.py, 13 in models/test_flops.py, 14 in training/test_store.py.
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fits import in_doubles
from same import equal

from ensemble_transfer.metrics.evaluate import evaluate
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.source.settings import EnsembleSettings
from ensemble_transfer.source.train import train_source
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.store import Store
from ensemble_transfer.transfer.base import transfer_ensemble
from ensemble_transfer.transfer.strategies.full import Full
from ensemble_transfer.transfer.strategies.head import HeadOnly
from ensemble_transfer.transfer.strategies.shift import Shift
from ensemble_transfer.transfer.workbench import Workbench
from ensemble_transfer.weights import Weights, add_scaled, below, floating, subtract

STILL = Recipe(1, lr=1e-30)
"""A recipe whose steps move no weight."""

STRATEGIES = [Full(), Shift(), Shift(donors=2, head="donor", statistics="shift"), HeadOnly()]


def close(a: Weights, b: Weights, tolerance: float) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name].double(), b[name].double(), rtol=tolerance, atol=tolerance) for name in a
    )


def test_1_a_donor_plus_its_own_shift_is_the_fine_tuned_donor(source_ensemble, target_task, recipes, fitter):
    bench = Workbench(source_ensemble, target_task, 0, recipes, fitter)
    before = {0: bench.encoders[0]}
    fits = bench.fine_tune_fully(before)
    vector = transfer_ensemble(Shift(), source_ensemble, target_task, 0, recipes, fitter).shift.scaled()
    after = below(fits.weights[0], "encoder")
    assert not close(floating(before[0]), floating(after), 1e-4)
    assert close(floating(add_scaled(before[0], vector, 1.0)), floating(after), 1e-6)
    assert equal(add_scaled(before[0], vector, 0.0), before[0])


@pytest.mark.parametrize("statistics", ["reestimate", "shift"])
def test_2_the_shift_keeps_every_difference_between_recipients(
    source_ensemble, target_task, recipes, fitter, statistics
):
    strategy = Shift(head="fresh", statistics=statistics)
    shifted_only = transfer_ensemble(strategy, source_ensemble, target_task, 0, replace(recipes, tiny=STILL), fitter)
    one, two = (below(source_ensemble.members[i], "encoder") for i in (1, 2))
    moved_one, moved_two = (below(shifted_only.ensemble.members[i], "encoder") for i in (1, 2))
    learned = [name for name in floating(one) if not is_statistic(name)]
    assert not equal(one, moved_one)
    difference, moved_difference = subtract(one, two), subtract(moved_one, moved_two)
    assert close({n: difference[n] for n in learned}, {n: moved_difference[n] for n in learned}, 1e-6)


def test_3_head_only_leaves_the_encoder_bit_identical(source_ensemble, target_task, recipes, fitter):
    result = transfer_ensemble(HeadOnly(), source_ensemble, target_task, 0, recipes, fitter)
    for before, after in zip(source_ensemble.members, result.ensemble.members, strict=True):
        assert any(name.endswith("running_mean") for name in before)
        assert equal(below(before, "encoder"), below(after, "encoder"))
        assert not equal(below(before, "head"), below(after, "head"))


def starts_of(architecture: Architecture, members: range) -> list[Start]:
    return [Start(member, architecture.initial(100 + member), seed=member) for member in members]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_4_a_member_trains_alone_as_in_a_group_as_vectorised(backbone, source_task, settings, optimizer, clip):
    architecture = backbone.architecture(8, 1, 5)
    recipe = Recipe(6, optimizer=optimizer, lr=1e-2 if optimizer == "adamw" else 0.05, clip=clip, batch_size=32)
    group = starts_of(architecture, range(3))

    def train(starts: list[Start], **options: object) -> tuple[Weights, ...]:
        fitter = Fitter(replace(settings, **options))
        return fitter.fit(architecture, starts, source_task, recipe, "full").weights

    together = train(group)
    assert equal(train(group[1:2])[0], together[1])
    assert equal(train(group[::-1])[1], together[1])
    assert equal(train(group, group_size=2)[2], together[2])
    assert not equal(together[0], together[1])

    executors = (replace(settings, executor=executor) for executor in ("loop", "vectorised"))
    looped, vectorised = (in_doubles(architecture, group, source_task.train, recipe, own) for own in executors)
    assert all(close(one, other, 1e-8) for one, other in zip(looped, vectorised, strict=True))
    assert close(looped[0], together[0], 1e-2)


def test_4_holds_for_what_drops_at_random(backbone, source_task, settings):
    architecture = replace(backbone.architecture(8, 1, 5), options=dict(backbone.options) | {"drop_path_rate": 0.5})
    group = starts_of(architecture, range(2))
    recipe = Recipe(4)
    together = Fitter(settings).fit(architecture, group, source_task, recipe, "full").weights
    torch.rand(7)  # a different state of the global generator must not matter
    alone = Fitter(settings).fit(architecture, group[1:], source_task, recipe, "full").weights
    assert equal(together[1], alone[0])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_5_a_transfer_mutates_nothing(source_ensemble, target_task, recipes, fitter, strategy):
    members, images = deepcopy(source_ensemble.members), target_task.train.images.clone()
    transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter)
    assert all(equal(a, b) for a, b in zip(members, source_ensemble.members, strict=True))
    assert torch.equal(images, target_task.train.images)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_5_a_strategy_cannot_read_the_test_split(source_ensemble, target_task, recipes, fitter, strategy):
    whole = transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter)
    sealed = transfer_ensemble(strategy, source_ensemble, target_task.sealed(), 0, recipes, fitter)
    assert all(equal(a, b) for a, b in zip(whole.ensemble.members, sealed.ensemble.members, strict=True))
    with pytest.raises(RuntimeError, match=r"the test split is for the final report"):
        _ = target_task.sealed().test.images


def test_6_one_member_is_its_ensemble_and_identical_members_do_not_differ(source_ensemble, source_task):
    member = replace(source_ensemble, members=source_ensemble.members[:1])
    twins = replace(source_ensemble, members=source_ensemble.members[:1] * 3)
    images, labels = source_task.test.images, source_task.test.labels
    one, three = (evaluate(e.predict(images), labels) for e in (member, twins))
    assert one["ensemble/accuracy"] == one["member/accuracy"]
    assert one["ensemble/nll"] == pytest.approx(one["member/nll"], abs=1e-12)
    for key in ("disagreement", "mutual_information", "js", "kl", "jensen_gap"):
        assert three[f"diversity/{key}"] == 0
    assert three["ensemble/nll"] == pytest.approx(one["ensemble/nll"], abs=1e-9)


@pytest.mark.parametrize("donors", [1, 2])
@pytest.mark.parametrize("from_store", [False, True])
def test_7_the_cost_of_shift_is_donors_and_tiny_and_the_rest(
    source_ensemble, target_task, recipes, settings, store, donors, from_store
):
    fitter = Fitter(settings, store)
    strategy = Shift(donors=donors)
    if from_store:
        transfer_ensemble(Full(), source_ensemble, target_task, 0, recipes, fitter)
        transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter)
    ledger = transfer_ensemble(strategy, source_ensemble, target_task, 0, recipes, fitter).ledger
    recipients, examples = 3 - donors, len(target_task.train)
    assert all(entry.reused == from_store for entry in ledger.entries if entry.key)
    assert ledger.total().steps == donors * 12 + recipients * (10 + 3)
    statistics_and_features = 2 * recipients * examples
    assert ledger.total().examples == 32 * (donors * 12 + recipients * (10 + 3)) + statistics_and_features
    phases = ledger.by_phase()
    assert list(phases) == ["full", "statistics", "probe", "tiny"]
    assert sum(cost.flops for cost in phases.values()) == ledger.total().flops
    assert phases["full"].flops / donors / 12 == pytest.approx(phases["tiny"].flops / recipients / 3)


def test_8_the_store_changes_no_result(backbone, source_task, target_task, recipes, settings, store):
    def result(fitter: Fitter) -> tuple[Ensemble, object]:
        ensemble, _ = train_source(EnsembleSettings(2), backbone, source_task, 5, recipes, fitter)
        done = transfer_ensemble(Shift(), ensemble, target_task, 5, recipes, fitter)
        return done.ensemble, replace(done.ledger.total(), seconds=0.0, cpu_seconds=0.0, peak_memory_bytes=0)

    fresh, cost = result(Fitter(settings))
    for fitter in (Fitter(settings, store), Fitter(settings, store), Fitter(settings, Store(store.root, reuse=False))):
        again, again_cost = result(fitter)
        assert again.fingerprint == fresh.fingerprint
        assert again_cost == cost


def test_8_growing_an_ensemble_trains_the_new_members_only(backbone, source_task, recipes, settings, store):
    fitter = Fitter(settings, store)
    small, _ = train_source(EnsembleSettings(2), backbone, source_task, 0, recipes, fitter)
    large, ledger = train_source(EnsembleSettings(4), backbone, source_task, 0, recipes, fitter)
    assert [entry.member for entry in ledger.entries if not entry.reused] == [2, 3]
    assert all(equal(a, b) for a, b in zip(small.members, large.members[:2], strict=True))


def test_splits_of_one_example_are_refused(source_ensemble, fitter, recipes, target_task):
    one = Split(target_task.train.images[:1], target_task.train.labels[:1])
    with pytest.raises(ValueError, match="a fit needs at least 2 examples"):
        transfer_ensemble(Full(), source_ensemble, replace(target_task, train=one), 0, recipes, fitter)
