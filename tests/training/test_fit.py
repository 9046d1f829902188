"""What the fitter does with the remains of earlier work."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.models.flops import encode_flops, head_flops
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.store import CHECKPOINT


@pytest.fixture
def start(backbone):
    return Start(0, backbone.architecture(8, 1, 5).initial(1), seed=2)


def fit(fitter, start, backbone, source_task):
    [weights] = fitter.fit(backbone.architecture(8, 1, 5), [start], source_task.train, Recipe(6), "full").weights
    return weights


def interrupted(fitter, start, backbone, source_task, monkeypatch):
    """Stop a fit right after a checkpoint, and return the checkpoint's path."""
    settings = replace(fitter.settings, checkpoint_seconds=1e-9)

    def stop(lockstep, *_):
        if lockstep.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("ensemble_transfer.training.lockstep.Lockstep.on_train_batch_start", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(replace(fitter, settings=settings), start, backbone, source_task)
    [path] = fitter.store.root.glob(f"unfinished/*/{CHECKPOINT}")
    return path


def weights_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_is_said_about_a_gpu_that_was_not_asked_for(settings, start, backbone, source_task, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.accelerators.cuda.CUDAAccelerator.is_available", lambda: True)
    fit(Fitter(settings), start, backbone, source_task)  # a warning is an error


def test_a_damaged_checkpoint_starts_the_fit_again(settings, store, start, backbone, source_task, monkeypatch, caplog):
    fitter = Fitter(settings, store)
    interrupted(fitter, start, backbone, source_task, monkeypatch).write_bytes(b"\x80\x04N.")
    whole = fit(Fitter(settings), start, backbone, source_task)
    again = fit(fitter, start, backbone, source_task)
    assert any("is damaged" in message for message in caplog.messages)
    assert weights_equal(whole, again)


RECIPES = [Recipe(9, lr=1e-2), Recipe(9, optimizer="sgd", lr=0.05, augment="crop")]


@pytest.mark.parametrize(("executor", "kind"), [("loop", 0), ("vectorised", 1)])
def test_members_go_on_exactly_in_groups_of_any_size(
    settings, store, backbone, source_task, monkeypatch, executor, kind
):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(4)]
    settings, recipe = replace(settings, executor=executor), RECIPES[kind]

    def train(settings, starts, store=None):
        return Fitter(settings, store).fit(architecture, starts, source_task.train, recipe, "full").weights

    def stop(self, _batch, index):
        if index == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr("ensemble_transfer.training.lockstep.Lockstep.on_train_batch_start", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(replace(settings, checkpoint_seconds=1e-9), starts[:3], store)
    keys = [path.parent.name for path in store.root.glob(f"unfinished/*/{CHECKPOINT}")]
    assert [store.unfinished(key).step for key in keys] == [4] * 3
    if executor == "loop":  # one that starts beside two of the interrupted, and the third alone
        starts, settings = [starts[3], *starts[:3]], replace(settings, group_size=3)
    else:  # whose last bits depend on the number of members
        starts = starts[:3]
    resumed = train(settings, starts, store)
    assert not list(store.root.glob("unfinished/*"))
    assert all(weights_equal(a, b) for a, b in zip(resumed, train(settings, starts), strict=True))


def weights_close(one, other):
    return all(torch.allclose(one[name].double(), other[name].double(), atol=1e-2) for name in one)


@pytest.mark.parametrize(("before", "after"), [("loop", "vectorised"), ("vectorised", "loop")])
def test_either_executor_goes_on_with_the_others_checkpoint(
    settings, store, start, backbone, source_task, monkeypatch, caplog, before, after
):
    caplog.set_level("INFO")
    settings = replace(settings, channels_last=False)  # the layout of vectorised members
    interrupted(Fitter(replace(settings, executor=before), store), start, backbone, source_task, monkeypatch)
    resumed = fit(Fitter(replace(settings, executor=after), store), start, backbone, source_task)
    assert "going on with an interrupted fit at step 3" in caplog.messages
    assert weights_close(resumed, fit(Fitter(settings), start, backbone, source_task))


def test_a_head_on_views_trains_on_all_of_them_and_pays_for_them(settings, start, backbone, source_task):
    architecture = backbone.architecture(8, 1, 5)

    def fit_head(**changes):
        recipe = Recipe(10, batch_size=400, **changes)  # all of 200 examples, or 400 views
        fits = Fitter(settings).fit_heads(architecture, [start], source_task.train, recipe, "probe")
        return fits.weights[0], fits.fitted[0].cost

    plain, cost = fit_head()
    viewed, more = fit_head(augment="crop", views=2)
    assert not torch.equal(plain["head.weight"], viewed["head.weight"])
    assert all(torch.equal(plain[name], viewed[name]) for name in plain if name.startswith("encoder."))
    assert (cost.examples, more.examples) == (10 * 200 + 200, 10 * 400 + 400)
    assert cost.flops == 10 * 200 * head_flops(architecture.features, 5) + 200 * encode_flops(architecture)
    assert more.flops == 2 * cost.flops


@pytest.mark.parametrize(("steps", "points"), [(99, 50), (101, 35)])
def test_a_curve_has_at_most_50_points_and_the_last_step(settings, start, backbone, source_task, steps, points):
    fits = Fitter(settings).fit_heads(backbone.architecture(8, 1, 5), [start], source_task.train, Recipe(steps), "head")
    curve = fits.fitted[0].curve
    assert len(curve) == points
    assert (curve[0, 0], curve[-1, 0]) == (0, steps - 1)
