import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.optimizer import optimizer_of
from ensemble_transfer.training.recipe import FLOAT32_MAX, FLOAT32_MIN, Recipe, Recipes

RECIPES = st.builds(
    Recipe,
    st.integers(1, 200),
    schedule=st.sampled_from(["cosine", "constant"]),
    warmup=st.floats(0, 1),
)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"steps": -1}, "steps=-1: must be in 0..1,000,000,000"),
        ({"batch_size": 0}, "batch_size=0: must be above 0"),
        ({"optimizer": "adam"}, "optimizer='adam': must be one of adamw, sgd"),
        ({"augment": "cutmix"}, "augment='cutmix': must be one of none, flip, crop, crop_flip, resized_crop, trivial"),
        ({"lr": math.nan}, "lr=nan: must be above 0"),
        ({"lr": 1e308}, "lr=1e+308: must be above 0 and finite (float32 holds 1e-38 to 1e+38)"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: must be 0 or more"),
        ({"momentum": 1.0}, "momentum=1.0: must be in [0, 1)"),
        ({"warmup": 1.1}, "warmup=1.1: must be in [0, 1]"),
        ({"clip": 0.0}, "clip=0.0: must be above 0 and finite, or null"),
        ({"head_lr_factor": math.inf}, "head_lr_factor=inf: must be above 0 and finite"),
        ({"head_lr_factor": 1e-37}, "head_lr_factor=1e-37: gives the head a rate of 5e-40 (float32"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: must be in [0, 1)"),
        (
            {"class_weights": "even"},
            "class_weights='even': must be balanced, a list of one number above 0 and finite for",
        ),
        ({"class_weights": [1, 0]}, "class_weights=[1, 0]: must be balanced, a list"),
        ({"class_weights": [1, math.nan]}, "class_weights=[1, nan]: must be balanced, a list"),
        ({"class_weights": []}, "class_weights=[]: must be balanced, a list"),
        ({"views": 0}, "views=0: must be at least 1"),
        ({"views": 2}, "views=2: needs an augmentation: set augment"),
        ({"lr": 1e30, "weight_decay": 1e30}, "weight_decay=1e+30: times the learning rate is 1e+60 "),
        ({"head_lr_factor": 1e20, "weight_decay": 1e30}, "weight_decay=1e+30: times the learning rate is 5e+47 "),
    ],
)
def test_settings_out_of_range_are_refused(settings, line):
    assert str(refusal(Recipe, **{"steps": 10} | settings)).startswith(line)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "settings",
    [
        {"lr": FLOAT32_MIN, "weight_decay": FLOAT32_MAX},
        {"lr": 0.05, "head_lr_factor": FLOAT32_MAX, "weight_decay": FLOAT32_MIN},
        {"lr": FLOAT32_MAX / 10, "weight_decay": 1.0, "head_lr_factor": FLOAT32_MIN, "momentum": 1e-320},
        {"lr": FLOAT32_MAX / 10, "weight_decay": 1.0, "clip": FLOAT32_MIN, "label_smoothing": 1e-320, "warmup": 1e-320},
    ],
)
def test_the_optimizer_takes_whatever_a_recipe_allows(optimizer, settings):
    weight = torch.nn.Parameter(torch.ones(3))
    head = torch.nn.Parameter(torch.ones(3))
    recipe = Recipe(10, optimizer=optimizer, **settings)
    step = optimizer_of(recipe, [("body", weight), ("head.weight", head)])
    (weight.sum() + head.sum()).backward()
    step.step()  # torch raises a RuntimeError for a number that float32 does not hold


def test_equal_recipes_have_one_form_and_so_one_key():
    recipe = Recipe(np.int64(5), lr=np.float64(0.01), weight_decay=0, clip=1)
    assert json.dumps(asdict(recipe)) == json.dumps(asdict(Recipe(5, lr=0.01, weight_decay=0.0, clip=1.0)))
    assert json.loads(json.dumps(asdict(recipe)))["clip"] == 1.0
    assert Recipe(5).clip is None


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"steps": 5.0}, "steps=5.0: must be a whole number"),
        ({"steps": "5"}, "steps='5': must be a whole number"),
        ({"steps": 5, "lr": "fast"}, "lr='fast': must be a number"),
        ({"steps": 5, "momentum": [0.9]}, "momentum=[0.9]: must be a number"),
    ],
)
def test_what_is_no_number_is_refused(settings, line):
    assert str(refusal(Recipe, **settings)) == line


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


@pytest.mark.parametrize(
    ("recipes", "line"),
    [
        *(({phase: Recipe(0)}, f"{phase}.steps=0: must be above 0") for phase in ("full", "tiny", "probe", "head")),
        ({"statistics": 1}, "statistics=1: must be at least 2 images, or null for all training im"),
        ({"probe": Recipe(1, augment="flip")}, "probe.views=1: must be 2 or more with an augmentation"),
        ({"full": Recipe(1, augment="crop", views=2)}, "full.views=2: must be 1: only a head is trained on views"),
    ],
)
def test_recipes_that_cannot_be_used_are_refused(recipes, line):
    assert str(refusal(Recipes, **recipes)).startswith(line)
    Recipes(ancestor=Recipe(0), source=Recipe(0), statistics=None)  # nothing is trained on the source


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
