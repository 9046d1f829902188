"""What the fitter does with the remains of earlier work."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fits import assert_same, stopped_after
from same import equal

from ensemble_transfer.models.flops import encode_flops, head_flops
from ensemble_transfer.training import groups
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec, Start
from ensemble_transfer.training.store import CHECKPOINT
from ensemble_transfer.weights import below


@pytest.fixture
def interrupted(train, store):
    """Stop a fit right after a checkpoint, at the fourth step, and return the checkpoints of its members."""

    def run(members, recipe, **settings):
        with stopped_after(3), pytest.raises((KeyboardInterrupt, SystemExit)):
            train(members, recipe, store, checkpoint_seconds=1e-9, **settings)
        return list(store.root.glob(f"unfinished/*/{CHECKPOINT}"))

    return run


def test_nothing_is_said_about_a_gpu_that_was_not_asked_for(train, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.accelerators.cuda.CUDAAccelerator.is_available", lambda: True)
    train([0], Recipe(2))  # a warning is an error


def test_a_damaged_checkpoint_starts_the_fit_again(train, store, interrupted, caplog):
    [checkpoint] = interrupted([0], Recipe(6))
    checkpoint.write_bytes(b"\x80\x04N.")
    again = train([0], Recipe(6), store)
    assert any("is damaged" in message for message in caplog.messages)
    assert_same(again, train([0], Recipe(6)))


RECIPES = [Recipe(9, lr=1e-2), Recipe(9, optimizer="sgd", lr=0.05, augment="crop")]


@pytest.mark.parametrize(("executor", "kind"), [("loop", 0), ("vectorised", 1)])
def test_members_go_on_exactly_in_groups_of_any_size(train, store, interrupted, executor, kind):
    recipe = RECIPES[kind]
    keys = [path.parent.name for path in interrupted(range(3), recipe, executor=executor)]
    assert [store.unfinished(key).step for key in keys] == [3] * 3
    # With the loop, one that starts beside two of the interrupted, and the third alone; the last bits of vectorised
    # members depend on their number.
    members, size = ([3, 0, 1, 2], 3) if executor == "loop" else (range(3), None)
    resumed = train(members, recipe, store, executor=executor, group_size=size)
    assert not list(store.root.glob("unfinished/*"))
    assert_same(resumed, train(members, recipe, executor=executor, group_size=size))


@pytest.mark.parametrize(("before", "after"), [("loop", "vectorised"), ("vectorised", "loop")])
def test_either_executor_goes_on_with_the_others_checkpoint(train, store, interrupted, caplog, before, after):
    caplog.set_level("INFO")
    interrupted([0], Recipe(6), executor=before, channels_last=False)  # the layout of vectorised members
    [resumed] = train([0], Recipe(6), store, executor=after, channels_last=False).weights
    assert "going on with an interrupted fit at step 3" in caplog.messages
    [whole] = train([0], Recipe(6), channels_last=False).weights
    assert all(torch.allclose(resumed[name].double(), whole[name].double(), atol=1e-2) for name in whole)


def test_a_head_on_views_trains_on_all_of_them_and_pays_for_them(train, architecture):
    def fit_head(**changes):
        recipe = Recipe(10, batch_size=400, **changes)  # all of 200 examples, or 400 views
        fits = train([0], recipe, heads=True)
        return fits.weights[0], fits.fitted[0].cost

    plain, cost = fit_head()
    viewed, more = fit_head(augment="crop", views=2)
    assert not torch.equal(plain["head.weight"], viewed["head.weight"])
    assert equal(below(plain, "encoder"), below(viewed, "encoder"))
    assert (cost.examples, more.examples) == (10 * 200 + 200, 10 * 400 + 400)
    assert cost.flops == 10 * 200 * head_flops(architecture.features, 5) + 200 * encode_flops(architecture)
    assert more.flops == 2 * cost.flops


@pytest.mark.parametrize(("steps", "points"), [(99, 50), (101, 35)])
def test_a_curve_has_at_most_50_points_and_the_last_step(train, steps, points):
    curve = train([0], Recipe(steps), heads=True).fitted[0].curve
    assert len(curve) == points
    assert (curve[0, 0], curve[-1, 0]) == (0, steps - 1)


@pytest.mark.parametrize("sharing", [1, 2])
def test_members_share_the_seconds_of_their_device_with_the_processes_on_it(
    architecture, source_task, settings, monkeypatch, sharing
):
    @contextmanager
    def twelve_seconds(_):
        yield SimpleNamespace(seconds=12.0, cpu_seconds=6.0, peak_memory_bytes=1)

    monkeypatch.setattr(groups, "measured", twelve_seconds)
    spec = FitSpec(architecture, source_task.train, Recipe(2), "full")
    starts = {str(member): Start(member, architecture.initial(member), member) for member in range(3)}
    loop = replace(settings, executor="loop")
    for fitted in groups.GroupFitter(loop, sharing=sharing).compute(spec, starts).values():
        assert (fitted.cost.seconds, fitted.cost.cpu_seconds) == (4.0 / sharing, 2.0)
