import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.recipe import LARGEST, SMALLEST, Recipe, Recipes, optimizer_of

RECIPES = st.builds(
    Recipe,
    st.integers(1, 200),
    schedule=st.sampled_from(["cosine", "constant"]),
    warmup=st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("steps", -1, "must be in 0..1,000,000,000"),
        ("batch_size", 0, "must be above 0"),
        ("optimizer", "adam", "must be one of adamw, sgd"),
        ("lr", math.nan, "must be above 0"),
        ("weight_decay", -0.1, "must be 0 or more"),
        ("momentum", 1.0, "must be in [0, 1)"),
        ("schedule", "linear", "must be one of cosine, constant"),
        ("warmup", 1.1, "must be in [0, 1]"),
        ("clip", 0.0, "must be above 0 and finite, or null"),
        ("head_lr_factor", math.inf, "must be above 0 and finite"),
        ("weight_decay", math.inf, "must be 0 or more and finite"),
        ("head_lr_factor", 1e308, "must be above 0 and finite (float32 holds 1e-38 to 1e+38)"),
        ("head_lr_factor", 1e-37, "gives the head a rate of 5e-40 (float32"),
        ("lr", 1e308, "must be above 0 and finite (float32"),
        ("lr", 1e-320, "must be above 0 and finite (float32"),
        ("weight_decay", 1e308, "must be 0 or more and finite (float32"),
        ("clip", 1e-320, "must be above 0 and finite, or null (float32"),
        ("clip", 1e308, "must be above 0 and finite, or null (float32"),
        ("label_smoothing", 1.0, "must be in [0, 1)"),
        ("views", 0, "must be at least 1"),
        ("views", 2, "needs an augmentation: set augment"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, value, rule):
    with pytest.raises(SettingError) as caught:
        Recipe(**{"steps": 10, setting: value})
    assert str(caught.value).startswith(f"{setting}={value!r}: {rule}")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"lr": 1e30, "head_lr_factor": 1e30, "optimizer": "sgd"},
            "head_lr_factor=1e+30: gives the head a rate of 1e+60 ",
        ),
        ({"lr": 1e30, "weight_decay": 1e30}, "weight_decay=1e+30: times the learning rate is 1e+60 "),
        ({"head_lr_factor": 1e20, "weight_decay": 1e30}, "weight_decay=1e+30: times the learning rate is 5e+47 "),
    ],
)
def test_rates_whose_product_overflows_are_refused(settings, line):
    with pytest.raises(SettingError) as caught:
        Recipe(10, **settings)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": SMALLEST, "weight_decay": LARGEST},
        {"lr": 0.05, "head_lr_factor": LARGEST, "weight_decay": SMALLEST},
        {"lr": LARGEST / 10, "weight_decay": 1.0, "head_lr_factor": SMALLEST, "momentum": 1e-320},
        {"lr": LARGEST / 10, "weight_decay": 1.0, "clip": SMALLEST, "label_smoothing": 1e-320, "warmup": 1e-320},
    ],
)
def test_the_optimizer_takes_whatever_a_recipe_allows(optimizer, settings):
    weight = torch.nn.Parameter(torch.ones(3))
    head = torch.nn.Parameter(torch.ones(3))
    recipe = Recipe(10, optimizer=optimizer, **settings)
    step = optimizer_of(recipe, [("body", weight), ("head.weight", head)])
    (weight.sum() + head.sum()).backward()
    step.step()  # torch raises a RuntimeError for a number that float32 does not hold


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"clip": 0.1}, {"warmup": 1.0}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"batch_size": 1}],
)
def test_the_ends_of_the_ranges_are_allowed(settings):
    Recipe(**{"steps": 10} | settings)


def test_a_cosine_falls_from_one_to_zero_after_the_last_step():
    rates = [Recipe(4).rate(step) for step in range(5)]
    assert rates == pytest.approx([1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0.0])


def test_a_warmup_rises_linearly_and_the_schedule_starts_after_it():
    constant = Recipe(10, schedule="constant", warmup=0.3)
    assert [constant.rate(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    cosine = Recipe(10, warmup=0.2)
    assert [cosine.rate(step) for step in (0, 1, 2, 6)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5])


@given(RECIPES)
def test_rates_rise_once_then_fall_within_zero_and_one(recipe):
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= math.ceil(recipe.warmup * recipe.steps)


@pytest.mark.parametrize("phase", ["full", "tiny", "probe", "head"])
def test_a_fit_on_the_target_takes_a_step(phase):
    with pytest.raises(SettingError, match=f"^{phase}.steps=0: must be above 0$"):
        Recipes(**{phase: Recipe(0)})


@pytest.mark.parametrize("phase", ["ancestor", "source"])
def test_what_is_not_trained_on_the_source_has_no_steps(phase):
    assert getattr(Recipes(**{phase: Recipe(0)}), phase).steps == 0


def test_statistics_need_two_images():
    with pytest.raises(SettingError, match=r"^statistics=1: must be at least 2 images, or null for all training im"):
        Recipes(statistics=1)
    assert (Recipes(statistics=2).statistics, Recipes(statistics=None).statistics) == (2, None)


@pytest.mark.parametrize(
    ("recipes", "text"),
    [
        ({"probe": Recipe(1, augment="flip")}, "probe.views=1: must be 2 or more with an augmentation"),
        ({"full": Recipe(1, augment="crop", views=2)}, "full.views=2: must be 1: only a head is trained on views"),
    ],
)
def test_views_are_for_heads_and_heads_need_them(recipes, text):
    with pytest.raises(SettingError) as caught:
        Recipes(**recipes)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("recipe", "phase", "name"),
    [
        (Recipes().full, "full", "recipe.full.lr"),
        (replace(Recipes().full, steps=7), "cycle", "recipe.full.lr"),
        (Recipes().probe, "diagnosis_random", "recipe.probe.lr"),
        (replace(Recipes().tiny, steps=300), "tiny", "recipe.tiny.lr"),
        (replace(Recipes().source, steps=3), "source", "recipe.source.lr"),
        (Recipe(5, lr=0.123), "full", "lr"),
    ],
)
def test_a_setting_that_a_fit_refuses_is_named_with_its_recipe(recipe, phase, name):
    with pytest.raises(SettingError, match=rf"^{name}=1: rule"), Recipes().naming(recipe, phase):
        raise SettingError("lr", 1, "rule")
    with pytest.raises(SettingError, match=r"^phase=1: rule"), Recipes().naming(recipe, phase):
        raise SettingError("phase", 1, "rule")
