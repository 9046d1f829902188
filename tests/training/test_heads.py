"""Heads on features: the steps of softmax regression, each head by itself."""

from functools import partial

import pytest
import torch
from fits import Curves, assert_same, stopped_after
from pytorch_lightning.callbacks import Callback
from torch import nn

from ensemble_transfer.training import groups as groups_module
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.course import Course
from ensemble_transfer.training.heads import Heads
from ensemble_transfer.training.loss import loss_of
from ensemble_transfer.training.optimizer import optimizer_of
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.spec import head_of
from ensemble_transfer.training.store import CHECKPOINT

RECIPES = {
    "adamw": Recipe(40, lr=1e-2),
    "clipped": Recipe(40, optimizer="sgd", lr=0.05, clip=0.1),
    "smoothed": Recipe(40, lr=1e-3, head_lr_factor=7.0, weight_decay=0.2, label_smoothing=0.2),
    "weighted": Recipe(40, lr=1e-2, label_smoothing=0.2, class_weights=[0.2, 1.0, 3.0, 0.5]),
    "schedule": Recipe(40, optimizer="sgd", momentum=0.0, lr=0.05, schedule="constant", warmup=0.3),
}
MEMBERS, EXAMPLES, CLASSES, WIDTH, BATCH = 3, 50, 4, 6, 8


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", RECIPES)
def test_heads_take_the_steps_of_autograd_and_of_torchs_optimizers(name):
    """In doubles: what is left of a difference is no rounding."""
    recipe, seeds, labels = RECIPES[name], [*range(MEMBERS)], torch.arange(EXAMPLES) % CLASSES
    weight = recipe.class_weights and torch.tensor(recipe.class_weights, dtype=torch.float64)
    expected = nn.CrossEntropyLoss(weight, label_smoothing=recipe.label_smoothing)
    every = [draws(seed, EXAMPLES, WIDTH) for seed in seeds]
    starts = [{"weight": draws(9 + seed, CLASSES, WIDTH), "bias": draws(seed, CLASSES)} for seed in seeds]
    rows = torch.arange(MEMBERS * EXAMPLES).view(MEMBERS, EXAMPLES)
    features = nn.functional.pad(torch.cat(every), (0, 1), value=1.0)
    batches = Batches(features, labels, BATCH, seeds, rows=rows)
    group = Heads([head_of(start) for start in starts], loss_of(recipe, labels, CLASSES).double())
    heads = Course(group, batches, recipe, TrainerSettings("cpu"))
    heads.configure_optimizers()
    heads.training_step(None)
    for member, start in enumerate(starts):
        linear = nn.Linear(WIDTH, CLASSES).double()
        linear.load_state_dict(start)
        orders = Batches(torch.arange(EXAMPLES), labels, BATCH, seeds)
        optimizer = optimizer_of(recipe, ((f"head.{n}", p) for n, p in linear.named_parameters()))
        highest, losses = optimizer.param_groups[0]["lr"], []
        for step in range(recipe.steps):
            optimizer.param_groups[0]["lr"] = highest * recipe.rate(step)
            optimizer.zero_grad()
            chosen, wanted = (of_all[member] for of_all in orders[step])
            loss = expected(linear(every[member][chosen]), wanted)
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(linear.parameters(), recipe.clip)
            optimizer.step()
            losses.append(float(loss.detach()))
        both = heads.weights()[member]["head.both"]
        torch.testing.assert_close(both[:, :-1], linear.weight.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(both[:, -1], linear.bias.detach(), rtol=1e-6, atol=1e-6)
        assert heads.curves()[member][:, 1].tolist() == pytest.approx(losses, rel=1e-5)


@pytest.fixture
def train(train):
    """Return fits of the heads of some members, in some order."""
    return partial(train, heads=True)


def test_a_head_is_the_same_beside_any_number_of_others_in_any_order(train):
    recipe = Recipe(8, lr=1e-2)
    thirteen = train(range(13), recipe)
    assert len({fitted.weights["head.weight"].sum().item() for fitted in thirteen.fitted}) == 13
    for number in (1, 5):
        assert_same(train(range(number), recipe), thirteen)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0)).tolist()
    assert_same(train(order, recipe), thirteen)
    assert_same(train([12, 4, 7], recipe, executor="vectorised", group_size=2), thirteen)


def test_a_head_is_the_same_with_threads_whose_kernels_divide_a_batch(backbone, train):
    recipe, wide = Recipe(4, batch_size=33, lr=1e-2), backbone.architecture(8, 1, 1000)
    two, three = (train(members, recipe, net=wide, threads=2) for members in ([2, 0], range(3)))
    assert_same(two, three)


@pytest.mark.parametrize("recipe", [RECIPES["adamw"], RECIPES["clipped"]], ids=str)
def test_interrupted_heads_go_on_exactly(train, store, recipe):
    with stopped_after(recipe.steps + 17), pytest.raises(KeyboardInterrupt):
        train(range(3), recipe, store, checkpoint_seconds=1e-9)
    [checkpoint] = store.root.glob(f"unfinished/*/{CHECKPOINT}")  # the first head is stored, the third not begun
    assert store.unfinished(checkpoint.parent.name).step == 17
    resumed = train([4, 2, 1, 0], recipe, store)
    assert [fitted.reused for fitted in resumed.fitted] == [False, False, False, True]
    assert_same(resumed, train(range(5), recipe))
    assert not list(store.root.glob("unfinished/*"))


def test_on_other_devices_heads_are_one_batch(train, monkeypatch):
    sizes = []
    monkeypatch.setattr(groups_module, "ALONE", frozenset())
    monkeypatch.setattr(
        groups_module, "Heads", lambda modules, *rest: sizes.append(len(modules)) or Heads(modules, *rest)
    )
    together = train(range(5), RECIPES["adamw"])
    assert sizes == [5]
    monkeypatch.undo()
    for batched, alone in zip(together.fitted, train(range(5), RECIPES["adamw"]).fitted, strict=True):
        assert all(torch.allclose(batched.weights[n], alone.weights[n], atol=1e-3) for n in alone.weights)
        assert batched.cost.examples == alone.cost.examples


def test_curves_reach_the_tracker_and_progress_is_one_bar(train, capfd, monkeypatch):
    curves = Curves()
    fits = train(range(3), RECIPES["adamw"], tracker=curves, progress=True)
    assert curves == [
        ("head", member, int(step), loss)
        for member, fitted in zip(fits.members, fits.fitted, strict=True)
        for step, loss in fitted.curve.tolist()
    ]
    for device in ("cpu", "another"):
        shown = capfd.readouterr().err
        assert "heads, members 1-3" in shown
        assert "120/120" in shown
        assert "member 1 " not in shown
        monkeypatch.setattr(groups_module, "ALONE", frozenset())  # as on another device, heads are one batch
        train(range(3), RECIPES["adamw"], progress=device == "cpu")


class Refuses(Callback):
    def on_train_start(self, trainer, pl_module):
        raise AssertionError


def test_callbacks_do_not_see_heads_and_so_heads_are_stored(train, store):
    for reused in (False, True):
        assert train([0], Recipe(2), store, callbacks=[Refuses()]).fitted[0].reused == reused
