"""A fit may keep BatchNorm's statistics: it takes the steps of a network whose BatchNorm is in evaluation mode."""

from dataclasses import replace

import pytest
import torch
from fits import plain_loop
from same import equal

from ensemble_transfer import Fitter, Recipe, SettingError
from ensemble_transfer.models.architecture import Classifier
from ensemble_transfer.training.features import is_statistic
from ensemble_transfer.training.spec import FitSpec, Start

RECIPE = Recipe(6, optimizer="sgd", lr=0.02, schedule="constant", batchnorm="frozen")


@pytest.fixture
def net(architecture):
    """Weights whose statistics are none that a batch would have."""
    weights = architecture.initial(0)
    return {n: t * 0.6 if n.endswith("running_var") else t for n, t in weights.items()}


@pytest.fixture
def fit(architecture, net, source_task, settings):
    """Return the fit of one member from these weights."""

    def run(recipe, **changes):
        fitter = Fitter(replace(settings, **changes))
        return fitter.fit(architecture, [Start(0, net, 50)], source_task, recipe, "full").fitted[0]

    return run


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_it_takes_the_steps_of_evaluation_mode_and_keeps_the_statistics(fit, architecture, net, source_task, executor):
    fitted = fit(RECIPE, executor=executor)
    wanted = plain_loop(architecture, Start(0, net, 50), source_task.train, RECIPE)
    assert all(torch.allclose(fitted.weights[name], wanted[name], rtol=1e-4, atol=1e-5) for name in wanted)
    kept = {name for name, tensor in net.items() if torch.equal(fitted.weights[name], tensor)}
    assert kept >= {name for name in net if is_statistic(name)}
    assert len(kept) < len(net) / 2


def test_a_batch_that_takes_much_memory_is_passed_in_parts(fit, architecture, net, source_task, monkeypatch):
    recipe = replace(RECIPE, label_smoothing=0.1, batch_size=20, class_weights=[0.1, 1, 2, 3, 4])
    whole, spec = fit(recipe), FitSpec(architecture, source_task.train, recipe, "full")
    assert spec.parts == 1
    monkeypatch.setattr("ensemble_transfer.training.spec.MOST_GRAPH", spec.need()[1] // 3 + 1)
    assert spec.parts == 3  # of 7, 7 and 6 images
    assert FitSpec(architecture, source_task.train, Recipe(6), "full").parts == 1  # whose statistics are the batch's
    sizes = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda *given: sizes.append(len(given[1])) or forward(*given))
    fitted = fit(recipe)
    assert sizes == 6 * [7, 7, 6]
    assert fitted.key != whole.key
    assert all(torch.allclose(fitted.weights[n], whole.weights[n], rtol=1e-4, atol=1e-5) for n in net)
    assert torch.allclose(fitted.curve, whole.curve, rtol=1e-4)


def test_statistics_of_the_batch_are_another_fit_and_move(fit, net):
    frozen, moved = fit(RECIPE), fit(replace(RECIPE, batchnorm="batch"))
    assert frozen.key != moved.key
    statistics = [name for name in net if is_statistic(name)]
    assert not any(torch.equal(moved.weights[name], net[name]) for name in statistics)


def test_a_fit_that_does_not_freeze_has_the_key_that_it_had_before_there_was_a_choice(
    architecture, source_task, settings, net
):
    start, recipe = Start(0, net, 1), Recipe(5, lr=1e-2)
    assert "batchnorm" not in recipe.decisive()
    assert recipe.decisive() | {"batchnorm": "frozen"} == replace(recipe, batchnorm="frozen").decisive()
    keys = [FitSpec(architecture, source_task.train, r, "full").key(start, settings) for r in (recipe, RECIPE)]
    assert len({*keys}) == 2


def test_a_choice_that_there_is_not_is_refused():
    with pytest.raises(SettingError, match="batchnorm='off': must be one of batch, frozen"):
        Recipe(5, batchnorm="off")


def test_a_network_without_batchnorm_trains_as_ever(train, backbone):
    net = replace(backbone, options=dict(backbone.options) | {"norm_layer": "groupnorm1"}).architecture(8, 1, 5)
    one, other = (train([0], replace(RECIPE, batchnorm=kind), net=net).fitted[0] for kind in ("frozen", "batch"))
    assert equal(one.weights, other.weights)
