"""Invariant 11, without training: no strategy spends more than its budget, and none fails after its first step."""

import random
from dataclasses import dataclass, replace

import pytest
import torch

from ensemble_transfer import Auto, Few, Full, HeadOnly, Scratch, Shift, Snapshots, Star, Tiny, Turns
from ensemble_transfer.errors import SettingError
from ensemble_transfer.models import flops
from ensemble_transfer.models.ensemble import Ensemble
from ensemble_transfer.tasks.task import Split, Task
from ensemble_transfer.training import spec
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.fit import Fits, Fitter
from ensemble_transfer.training.recipe import Recipe, Recipes
from ensemble_transfer.training.spec import FitSpec, most_encoded
from ensemble_transfer.training.store import Fitted
from ensemble_transfer.transfer import prices, workbench
from ensemble_transfer.transfer.base import Strategy, transfer_ensemble
from ensemble_transfer.transfer.workbench import TransferResult, Workbench

SIZES = (8, 12, 16)
"""Image sizes of members, in pixels; images are stored at the largest."""

PRICES = {  # operations of an image of the largest size: encoding, a training step, a step of the head on features
    "small_resnet": (3_300_000, 9_800_000, 2_560),
    "efficientnet_lite0": (61_000_000, 181_000_000, 76_800),
    "vit_tiny_patch16_224": (2_500_000_000, 7_400_000_000, 7_680),
}


def strategies(draw: random.Random, members: int) -> list[Strategy]:
    """Return every strategy with options drawn at random."""
    donors, head = draw.randint(1, members), draw.choice(["probe", "donor", "fresh"])
    cycles = {"first": draw.uniform(0.05, 1), "cycle": draw.uniform(0.01, 0.5)}
    scales = [draw.uniform(0, 3) for _ in range(draw.randint(1, 5))]
    size, sizes = draw.choice((None, *SIZES)), draw.sample(SIZES, draw.randint(1, 3))
    return [
        HeadOnly(sizes),
        Tiny(),
        Shift(donors, head=head, if_better=draw.random() < 0.5, image_size=size),
        Shift(donors, statistics="shift", image_size=size),
        Shift(donors, finish="head", head=draw.choice(["probe", "donor"])),
        Shift(direction="random", head=head),
        Star(**cycles),
        Snapshots(**cycles, image_size=size),
        Few(donors, image_size=sizes),
        Few(donors, cycles=[0.6, 0.2, 0.2], image_size=sizes),
        Full(),
        Full("probe"),
        Scratch(),
        Auto(image_size=size),
        Auto(draw.uniform(1, 10)),
        Auto(1.0, image_size=size),
        Turns(max(1, donors - 1), scales=scales, image_size=size),
        Turns(max(1, donors - 1), head="donor"),
    ]


@dataclass(frozen=True)
class Untrained(Fitter):
    """Bills fits as if they had been computed, and returns the weights that they start from.

    Attributes:
        learns: Whether fits end with a training loss of 0, or with one that is far above that of validation.
    """

    learns: bool = True

    def begin(self) -> None:
        """Notice that something is trained."""

    def fit(self, architecture, starts, task, recipe, phase, heads=False):
        """Bill fits as if they had been computed."""
        self.begin()
        spec = FitSpec(architecture, task.train, recipe, phase, heads)
        assert recipe.steps > 0 or not starts
        seen = recipe.steps * min(recipe.batch_size, len(spec.data) * recipe.views)
        encoded = most_encoded(recipe, len(spec.data)) if spec.heads else 0
        cost = Cost(recipe.steps, seen + encoded, spec.flops(seen, encoded))
        curve = torch.tensor([[0.0, 9.0], [recipe.steps, 0.0 if self.learns else 9.0]])
        fitted = tuple(Fitted(start.weights, curve, cost) for start in starts)
        return Fits(spec.phase, tuple(start.member for start in starts), fitted)


def task_of(labels: int, validation: int) -> Task:
    """Return a task with so many images, and two classes."""

    def split(size):
        return Split(torch.zeros(size, 1, max(SIZES), max(SIZES), dtype=torch.uint8), torch.arange(size) % 2)

    return Task("photos", ("cat", "dog"), split(labels), split(validation), split(2))


@pytest.fixture
def dear(monkeypatch):
    """Give the small net the prices of another, and skip what takes time and costs nothing here."""

    def price(name):
        encode, step, head = PRICES[name]
        for module in (flops, spec, prices, workbench):
            for function, value in (("encode_flops", encode), ("step_flops", step)):
                if hasattr(module, function):
                    monkeypatch.setattr(module, function, lambda a, value=value: value * a.image_size**2 // 16**2)
        monkeypatch.setattr(spec, "head_flops", lambda *_: head)

    def predict(self, images, *_):
        chances = torch.rand(len(self), len(images), len(self.classes), generator=torch.Generator().manual_seed(3))
        return chances / chances.sum(-1, keepdim=True)

    monkeypatch.setattr(workbench, "reestimated_statistics", lambda _architecture, encoder, *_: encoder)
    monkeypatch.setattr(Ensemble, "predict", predict)
    monkeypatch.setattr(Ensemble, "__post_init__", lambda _: None)  # it builds a network to compare with
    return price


@pytest.mark.parametrize("seed", range(3))
def test_11_no_strategy_spends_more_than_its_budget_or_fails_after_its_first_step(
    seed, dear, source_ensemble, fitter, monkeypatch
):
    draw, begun, paid = random.Random(seed), list[Fitter](), 0
    monkeypatch.setattr(Untrained, "begin", lambda self: begun.append(self))
    for _ in range(5):
        dear(draw.choice(sorted(PRICES)))
        members, budget = draw.randint(2, 6), draw.uniform(0.05, 1.5) if draw.random() < 0.5 else draw.uniform(1, 8)
        target = task_of(round(10 * 500 ** draw.random()), round(20 * 500 ** draw.random())).sealed()
        lengths = {name: Recipe(round(600 ** draw.random())) for name in ("full", "tiny", "probe", "head")}
        recipes = Recipes(**lengths, statistics=draw.choice([None, 256]), image_size=draw.choice((None, *SIZES)))
        recipes = replace(recipes, pretrained=draw.random() < 0.5)  # auto then grows members of several sizes
        stored = replace(source_ensemble.architecture, image_size=max(SIZES))
        source = replace(source_ensemble, architecture=stored, members=source_ensemble.members[:1] * members)
        limit = budget * prices.Prices.of(stored, target, recipes, members, None).unit
        untrained = Untrained(fitter.settings, learns=draw.random() < 0.5)
        for strategy in strategies(draw, members):
            begun.clear()
            try:
                ledger = transfer_ensemble(strategy, source, target, 0, recipes, untrained, budget).ledger
            except SettingError as error:
                refused = f"{strategy} with {budget=}, {recipes}, {target}: {error}"
            else:
                assert 0 < ledger.total().flops <= limit
                refused, paid = "", paid + 1
            assert not (begun and refused), refused
    assert paid > 25  # of 90


class Spendthrift:
    """A strategy that does not know of budgets."""

    name, about, role = "spendthrift", "Know nothing of budgets.", "method"

    def check(self, members, architecture):
        pass

    def plan(self, prices):
        pass

    def run(self, bench: Workbench) -> TransferResult:
        fits = bench.fine_tune_fully(bench.encoders)
        bench.look(fits.weights)
        return bench.result(self.name, fits.weights, fits.members)


def test_the_workbench_refuses_what_the_rest_of_the_budget_does_not_pay_before_it_is_done(transfer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Fitter, "fit", lambda *_, **__: pytest.fail("something was trained"))
        rule = r"^budget=0\.6: leaves 0\.6 fine-tunings, and phase 'full' of spendthrift takes 3$"
        with pytest.raises(SettingError, match=rule):
            transfer(Spendthrift(), budget=0.6)
    with pytest.raises(SettingError, match=r"budget=3: leaves 0 fine-tunings, and phase 'choice' of spendthrift takes"):
        transfer(Spendthrift(), budget=3)
    assert len(transfer(Spendthrift(), budget=9).ensemble) == 3
    for wrong in (float("inf"), float("nan"), 0.0):
        with pytest.raises(
            SettingError, match=r"^budget=\S+: must be above 0 and at most 1,000,000 fine-tunings, or null for none$"
        ):
            transfer(Spendthrift(), budget=wrong)


def test_a_fit_of_no_steps_is_refused(bench):
    with pytest.raises(SettingError, match=r"^steps=0: must be at least 1 in phase 'full'$"):
        bench.fine_tune_fully(bench.encoders, Recipe(0))
