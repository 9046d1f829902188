"""Image sizes of members: what a fit sees, what a member is, and what it costs."""

from dataclasses import replace

import pytest
import torch
from same import equal

from ensemble_transfer import Ensemble, Few, HeadOnly, Shift, Snapshots, Turns
from ensemble_transfer.errors import SettingError
from ensemble_transfer.inference.export import averaged, preprocessing
from ensemble_transfer.lightning.module import EnsembleModule
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.models.flops import encode_flops
from ensemble_transfer.runs.conclusion import weight_metrics
from ensemble_transfer.runs.costs import prediction
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.tasks.images import scaled
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.transfer.base import check_strategy, transfer_ensemble
from ensemble_transfer.transfer.workbench import Workbench

LARGE, SMALL = 16, 8


@pytest.fixture(scope="module")
def task():
    return Digits(classes=["5", "6", "7"], train=60, validation=24, test=30).load(LARGE, 1)


@pytest.fixture(scope="module")
def source(backbone):
    architecture = backbone.architecture(LARGE, 1, 3)
    members = tuple(architecture.initial(seed) for seed in range(3))
    return Ensemble(architecture, members, ("a", "b", "c"), "shared")


@pytest.fixture
def bench(source, task, recipes, fitter):
    return Workbench(source, task.sealed(), 0, replace(recipes, image_size=SMALL), fitter)


@pytest.fixture
def transferred(source, task, recipes, fitter):
    def run(strategy, budget=1.0, of=None, size=SMALL):
        return transfer_ensemble(strategy, source, of or task, 0, replace(recipes, image_size=size), fitter, budget)

    return run


def test_16_a_member_of_a_mixed_ensemble_is_the_one_that_is_trained_alone(transferred):
    mixed = transferred(Few(2, image_size=[LARGE, SMALL]), budget=2.0).ensemble
    large, small = (transferred(Few(1, image_size=size), budget=1.0).ensemble for size in (LARGE, SMALL))
    assert mixed.image_sizes == (LARGE, SMALL)
    assert equal(mixed.members[0], large.members[0])
    own = transferred(Few(2, image_size=SMALL), budget=2.0).ensemble
    assert equal(mixed.members[1], own.members[1])
    assert not equal(own.members[0], large.members[0])
    assert small.image_sizes == (SMALL,)


def test_a_member_of_a_size_is_the_one_of_images_that_are_stored_so(transferred, task):
    stored = replace(task, **{name: split_at(getattr(task, name)) for name in ("train", "validation", "test")})
    mixed = transferred(Few(2, image_size=[SMALL, LARGE]), budget=2.0).ensemble
    small = replace(mixed, members=mixed.members[:1], architecture=mixed.architecture.at(SMALL), sizes=())
    assert torch.equal(mixed.predict(task.test.images)[0], small.predict(stored.test.images)[0])


def split_at(split):
    return replace(split, images=scaled(split.images, SMALL))


@pytest.mark.parametrize(
    "strategy",
    [Few(3, image_size=[SMALL, LARGE]), Few(2, [0.5, 0.5], [SMALL, LARGE]), Snapshots(image_size=LARGE),
     HeadOnly([SMALL, LARGE]), Shift(finish="head", image_size=SMALL), Turns(donors=1, image_size=SMALL)],
)  # fmt: skip
def test_11_no_size_spends_more_than_its_budget(strategy, bench):
    budget = 3.0
    result = strategy.run(replace(bench, budget=budget))
    spent = result.ledger.total().flops / bench.prices.unit
    assert spent <= budget
    if not isinstance(strategy, HeadOnly):
        assert spent > 0.85 * budget
    sizes = result.ensemble.image_sizes
    assert set(sizes) <= {SMALL, LARGE}
    assert result.ensemble.architecture.image_size == LARGE


def test_the_unit_is_the_fine_tuning_at_the_size_of_the_recipe(bench):
    prices = bench.prices
    assert prices.unit == prices.at(SMALL).full < prices.at(LARGE).full
    assert replace(bench, recipes=replace(bench.recipes, image_size=None)).prices.unit == prices.at(LARGE).full
    plans = [Few(1, image_size=size).plan(replace(prices, budget=2.0))[0][0] for size in (SMALL, LARGE)]
    assert plans == [2 * bench.recipes.full.steps, 2 * prices.unit // prices.at(LARGE).step]


def test_a_prediction_costs_what_its_members_do_at_their_sizes(transferred):
    mixed = transferred(Few(2, image_size=[LARGE, SMALL]), budget=2.0).ensemble
    networks = sum(encode_flops(mixed.architecture.at(size)) for size in (LARGE, SMALL))
    heads = 2 * 2 * mixed.architecture.features * 3
    assert prediction(mixed) == {"networks": 2, "flops": networks + heads}


def test_a_mixed_ensemble_is_saved_with_its_sizes(transferred, task, tmp_path):
    mixed = transferred(Few(2, image_size=[LARGE, SMALL]), budget=2.0).ensemble
    mixed.save(tmp_path)
    found = Ensemble.load(tmp_path)
    assert found.image_sizes == mixed.image_sizes
    assert found.fingerprint == mixed.fingerprint != replace(mixed, sizes=()).fingerprint
    assert torch.equal(found.predict(task.test.images), mixed.predict(task.test.images))


@pytest.mark.parametrize(
    ("strategy", "value"),
    [(Few(1, image_size=17), 17), (Few(1, image_size=[8, 4]), 4), (HeadOnly("8"), "8"), (Few(1, image_size=[]), []),
     (Snapshots(image_size=[8, 16]), [8, 16]), (Shift(image_size=[8, 16]), [8, 16]), (Few(1, image_size=True), True)],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused_before_training(strategy, value, source):
    with pytest.raises(SettingError) as error:
        check_strategy(strategy, 3, source.architecture, "shared", None)
    assert (error.value.setting, error.value.value) == ("strategy.image_size", value)


def test_positions_are_interpolated_and_several_sizes_have_no_soup(recipes, fitter):
    architecture = Backbone("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 24}).architecture(64, 1, 3)
    source = Ensemble(architecture, (architecture.initial(0),) * 2, ("a", "b", "c"), "copies")
    task = Digits(classes=["5", "6", "7"], train=20, validation=12, test=6).load(64, 1)
    strategy, short = Few(2, image_size=[64, 32]), replace(recipes, full=replace(recipes.full, steps=1))
    check_strategy(strategy, 2, architecture, "copies", None)
    result = transfer_ensemble(strategy, source, task, 0, short, fitter)
    tokens = [member["encoder.pos_embed"].shape[1] for member in result.ensemble.members]
    assert tokens == [1 + 16, 1 + 4]
    assert result.ensemble.predict(task.test.images).isfinite().all()
    assert 0 < weight_metrics(None, result)["target/diversity/weight_cosine"] < 1
    assert preprocessing(architecture, result.ensemble.sizes)["scaling"].endswith("64, 32 pixels")
    with pytest.raises(SettingError, match="needs members of one image size"):
        averaged(result.ensemble)
    small = replace(result.ensemble, members=result.ensemble.members[1:], sizes=(32,))
    assert averaged(small).image_sizes == (32,)


def test_a_network_that_cannot_take_a_size_is_refused():
    architecture = Backbone("mixer_s32_224").architecture(64, 3, 2)
    with pytest.raises(SettingError) as error:
        check_strategy(Few(1, image_size=32), 1, architecture, "copies", None)
    assert (error.value.setting, error.value.value) == ("strategy.image_size", 32)


def test_a_member_under_a_users_trainer_keeps_its_size(transferred, task):
    mixed = transferred(Few(2, image_size=[LARGE, SMALL]), budget=2.0).ensemble
    again = EnsembleModule(EnsembleModule(mixed, Recipe(1)).hparams["ensemble"], Recipe(1))
    assert again.ensemble().image_sizes == mixed.image_sizes
    assert torch.allclose(EnsembleModule(mixed, Recipe(1)).eval()(task.test.images), mixed.predict(task.test.images))
