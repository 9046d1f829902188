"""What ``auto`` does with pretrained networks: image sizes, members, and what it chooses by."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer import Auto, Ensemble, Few, Recipe, Workbench
from ensemble_transfer.errors import SettingError
from ensemble_transfer.tasks.embedded import Digits
from ensemble_transfer.transfer.base import check_strategy
from ensemble_transfer.transfer.growth import STARVED, Grown, GrowthPlan, chosen, next_size

LARGE, BETWEEN, SMALL = 16, 12, 8


@pytest.fixture(scope="module")
def bench(backbone, recipes, fitter) -> Workbench:
    """Three members at 16 pixels, with a recipe that says that they are pretrained and counts at 8."""
    task = Digits(classes=["5", "6", "7"], train=60, validation=24, test=30).load(LARGE, 1)
    architecture = backbone.architecture(LARGE, 1, 3)
    members = tuple(architecture.initial(seed) for seed in range(3))
    recipes = replace(recipes, full=Recipe(90, lr=1e-2), pretrained=True, image_size=SMALL)
    return Workbench(Ensemble(architecture, members, ("a", "b", "c"), "shared"), task.sealed(), 0, recipes, fitter)


@pytest.mark.parametrize(("budget", "size"), [(0.5, SMALL), (0.8, BETWEEN), (1.4, LARGE), (2.0, None), (3.4, None)])
def test_11_a_grown_ensemble_stays_within_its_budget_and_tells_what_it_chose_from(bench, budget, size):
    result = Auto().run(replace(bench.unbilled(), budget=budget))
    spent = result.ledger.total().flops / bench.prices.unit
    assert 0.9 * budget < spent <= budget
    choice, sizes = result.decisions["choice"], result.ensemble.image_sizes
    grown = choice["grown"]
    assert len({entry.key for entry in result.ledger.entries if entry.phase == "full"}) == len(grown)
    assert choice["pilots"] == []
    if size is not None:
        assert (sizes, choice["candidates"], len(grown)) == ((size,), [], 1)
        return
    assert len(grown) == int(budget)
    [taken] = [candidate for candidate in choice["candidates"] if candidate["taken"]]
    assert taken["nll"] == min(candidate["nll"] for candidate in choice["candidates"])
    assert taken["members"] == len(sizes)
    assert grown[0]["image_size"] == LARGE
    assert {*sizes} <= {own["image_size"] for own in grown} <= {LARGE, BETWEEN, SMALL}


def test_with_one_image_size_it_is_few_with_whole_schedules(bench):
    for budget, members in ((1.9, 1), (2.0, 2), (3.9, 3)):
        both = (Auto(image_size=SMALL), Few(members, [], SMALL))
        own, few = (strategy.run(replace(bench.unbilled(), budget=budget)).ensemble for strategy in both)
        assert own.image_sizes == (SMALL,) * members
        assert own.fingerprint == replace(few, history=own.history).fingerprint


def grown(size, right, training, examples=40):
    """Return a member that is so sure of the right class of every example."""
    probabilities = torch.full((1, examples, 2), 1 - right)
    probabilities[0, torch.arange(examples), torch.arange(examples) % 2] = right
    probabilities[0, 0] = probabilities[0, 0].flip(0)  # one error, so that a temperature cannot make the loss 0
    return Grown(size, 10, {"weight": torch.zeros(1)}, training, probabilities)


def test_the_next_member_is_smaller_while_the_newest_lacks_steps_and_else_of_the_best_size():
    labels, sizes = torch.arange(40) % 2, (64, 32, 16)
    loss = next(iter(chosen([grown(64, 0.9, 1.0)], labels)[1]))["nll"]
    fed, starved = (grown(64, 0.9, share * loss) for share in (STARVED - 0.1, STARVED + 0.1))
    assert next_size([], sizes, labels) == 64
    assert next_size([fed], sizes, labels) == 64
    assert next_size([starved], sizes, labels) == 32
    assert next_size([starved], (64,), labels) == 64
    weak, weaker = (replace(grown(size, 0.9, 9.0), probabilities=torch.full((1, 40, 2), 0.5)) for size in (32, 16))
    assert next_size([starved, weak], sizes, labels) == 16
    assert next_size([starved, weak, weaker], sizes, labels) == 64
    assert next_size([starved, weak, weaker, starved], sizes, labels) == 64


def test_sizes_are_mixed_only_where_neither_is_clearly_better():
    labels = torch.arange(40) % 2
    strong, alike = grown(64, 0.9, 1.0), grown(32, 0.9, 1.0)
    weak = replace(alike, probabilities=torch.full((1, 40, 2), 0.5))
    assert [len(score["name"].split(" and ")) for score in chosen([strong, alike], labels)[1]] == [1, 1, 2]
    taken, scores = chosen([strong, weak], labels)
    assert taken == [strong]
    assert len(scores) == 2


def test_the_largest_size_is_taken_of_which_the_budget_pays_enough_steps(bench):
    def plan(steps, *asked, members=3, examples=960):
        """Plan with a budget of so many steps at the largest of 16, 12 and 8 pixels, by batches of 32."""
        recipes = replace(bench.recipes, full=replace(bench.recipes.full, steps=100), image_size=LARGE)
        own = replace(bench.prices, recipes=recipes, members=members, examples=examples)
        return GrowthPlan.of(replace(own, budget=steps * own.step / own.unit), asked or (LARGE, BETWEEN, SMALL))

    assert plan(40) == GrowthPlan((LARGE,), 1)
    assert plan(39) == GrowthPlan((BETWEEN,), 1)
    assert plan(1) == GrowthPlan((SMALL,), 1)
    assert plan(1, LARGE) == GrowthPlan((LARGE,), 1)
    assert plan(199) == GrowthPlan((LARGE,), 1)
    assert plan(200) == GrowthPlan((LARGE, BETWEEN, SMALL), 2)
    assert plan(200, members=1) == GrowthPlan((LARGE,), 1)
    assert plan(20, examples=64) == GrowthPlan((LARGE,), 1)  # of ten epochs
    assert plan(19, examples=64) == GrowthPlan((BETWEEN,), 1)
    assert plan(199, examples=64).members == 1  # less than two fine-tunings
    assert plan(299, examples=320).members == 2
    assert plan(199, examples=320).members == 1


def test_few_images_are_seen_ten_times_by_several_members(bench):
    recipes = replace(bench.recipes, image_size=SMALL)
    own = replace(bench.prices, recipes=recipes, examples=32)
    steps, price = 2 * 10, own.step  # at 16 pixels, where a fine-tuning has fewer steps than at 8
    assert GrowthPlan.of(replace(own, budget=2.0), ()).members == 2
    assert own.unit * 2 // price > steps
    many = replace(own, examples=32 * 5)
    assert many.unit * 2 // many.step < 2 * 50
    assert GrowthPlan.of(replace(many, budget=2.0), ()).members == 1


def test_sizes_are_parts_of_that_of_the_dataset_down_to_that_of_the_recipe(bench):
    prices = replace(bench.prices, budget=4.0)
    assert GrowthPlan.of(prices, []).sizes == (LARGE, BETWEEN, SMALL)
    for own in (None, LARGE, SMALL + 1):
        counted = replace(prices, recipes=replace(bench.recipes, image_size=own))
        assert GrowthPlan.of(counted, []).sizes == (LARGE,)
    assert GrowthPlan.of(prices, [SMALL, BETWEEN]).sizes == (BETWEEN, SMALL)
    assert not GrowthPlan.of(replace(prices, validation=3), [SMALL]).looks


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"validation": 19}, "validation"), ({"budget": 1e-4}, "budget"), ({"members": 3, "budget": 3e-4}, "budget")],
)
def test_what_cannot_be_chosen_or_paid_is_refused_before_training(bench, changes, setting):
    with pytest.raises(SettingError) as error:
        Auto().plan(replace(bench.prices, **{"budget": 4.0} | changes))
    assert error.value.setting == setting


def test_several_sizes_are_for_pretrained_networks(bench):
    several, small = Auto(image_size=[SMALL, LARGE]), replace(bench.recipes, pretrained=False)
    with pytest.raises(SettingError) as error:
        several.plan(replace(bench.prices, recipes=small, budget=2.0))
    assert (error.value.setting, error.value.value) == ("image_size", [SMALL, LARGE])
    with pytest.raises(SettingError) as error:
        check_strategy(Auto(image_size=LARGE + 1), 3, bench.source.architecture, "shared", 2.0)
    assert error.value.setting == "strategy.image_size"
