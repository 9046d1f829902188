"""A fit that diverges stops at once, says where, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from refusals import refusal

from ensemble_transfer import EnsembleSettings, HeadOnly, Recipe, SettingError, Shift, train_source, transfer_ensemble
from ensemble_transfer.training.fit import Fitter, Start

TOO_HIGH = Recipe(40, optimizer="sgd", lr=1e30)


@pytest.fixture
def diverge(architecture, source_task, settings, store):
    """Return the error of a fit of members 4 and 5."""

    def run(recipe, change=lambda weights: weights, executor="loop", group_size=None):
        fitter = Fitter(replace(settings, executor=executor, group_size=group_size, checkpoint_seconds=1e-9), store)
        starts = [Start(3, architecture.initial(0), 1), Start(4, change(architecture.initial(1)), 2)]
        return str(refusal(fitter.fit, architecture, starts, source_task, recipe, "full"))

    return run


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_the_first_loss_that_is_not_finite_ends_the_fit_and_names_all(diverge, store, executor):
    message = diverge(TOO_HIGH, executor=executor)
    assert message.startswith(
        "lr=1e+30: is too high: the loss is not finite in phase 'full', member 4, at step 2 of 40; "
    )
    assert "lower lr or head_lr_factor" in message
    assert not list(store.root.rglob("*.safetensors"))
    assert not list(store.root.glob("unfinished/*"))


@pytest.mark.parametrize(("strategy", "name"), [(Shift(), "full"), (HeadOnly(), "head")])
def test_a_transfer_names_the_recipe(source_ensemble, target_task, recipes, fitter, strategy, name):
    hopeless = replace(recipes, **{name: TOO_HIGH})
    with pytest.raises(SettingError, match=rf"^recipe\.{name}\.lr=1e\+30: is too high: the .* not finite in phase"):
        transfer_ensemble(strategy, source_ensemble, target_task.sealed(), 0, hopeless, fitter)


def test_training_on_the_source_names_the_recipe(backbone, source_task, recipes, fitter):
    with pytest.raises(SettingError, match=r"^recipe\.ancestor\.lr=1e\+30: is too high: the loss is not finite"):
        train_source(EnsembleSettings(2), backbone, source_task, 0, replace(recipes, ancestor=TOO_HIGH), fitter)


def infinite(weights):
    return {name: tensor * torch.inf if name == "head.weight" else tensor for name, tensor in weights.items()}


def test_weights_that_are_bad_from_the_start_are_not_blamed_on_the_rate(diverge, store):
    message = diverge(Recipe(5), change=infinite, group_size=1)
    assert len(list(store.root.rglob("*.safetensors"))) == 1  # the other member, which has finished
    assert message.startswith(
        "phase='full': member 5 starts from weights whose loss is not finite; lower what they come"
    )


@pytest.mark.parametrize(
    ("recipe", "start"),
    [(Recipe(1, optimizer="sgd", lr=1e38, momentum=0.0), "lr=1e+38: is too"), (Recipe(0), "phase=")],
)
def test_bad_final_weights_are_never_stored(diverge, store, recipe, start):
    assert diverge(recipe, change=infinite if not recipe.steps else hot).startswith(start)
    assert not list(store.root.rglob("*.safetensors"))


def hot(weights):
    """A head whose gradients are large: one step of an absurd rate makes the weights infinite, after a finite loss."""
    return {name: tensor * 100 if name.startswith("head") else tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_batches_that_batchnorm_cannot_take_are_refused_by_the_setting(train, executor):
    with pytest.raises(SettingError, match=r"^batch_size=1: is too small: BatchNorm needs two or more values"):
        train([0, 1], Recipe(2, batch_size=1), executor=executor)
