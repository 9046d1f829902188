"""Which executor ``auto`` takes, and that its trial leaves no trace."""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.models.backbone import Architecture
from ensemble_transfer.training import choice
from ensemble_transfer.training.batches import Batches
from ensemble_transfer.training.choice import SHORTEST, decided
from ensemble_transfer.training.parts import loaded
from ensemble_transfer.training.recipe import Recipe

LONG = Recipe(SHORTEST)


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch):
    monkeypatch.setattr(choice, "_chosen", {})


@pytest.fixture
def auto(settings):
    return replace(settings, executor="auto")


@pytest.fixture
def group(backbone, source_task):
    architecture = backbone.architecture(8, 1, 5)
    modules = [loaded(architecture, architecture.initial(seed)) for seed in range(3)]
    return modules, Batches([source_task.train.images] * 3, source_task.train.labels, 16, [1, 2, 3])


@pytest.fixture
def timed(monkeypatch):
    """Pretend that steps take these seconds, and count the trials."""
    trials = []

    def pretend(**seconds):
        def step(executor, *_):
            trials.append(executor)
            return lambda: seconds[executor]

        monkeypatch.setattr(choice, "_step", step)
        return trials

    return pretend


@pytest.mark.parametrize(
    ("vectorised", "chosen"), [(0.5, "vectorised"), (0.94, "vectorised"), (0.96, "loop"), (2.0, "loop")]
)
def test_the_faster_executor_is_taken_once_measured_and_said_in_a_line(auto, group, timed, caplog, vectorised, chosen):
    caplog.set_level("INFO")
    trials = timed(loop=1.0, vectorised=vectorised)
    assert [decided(auto, *group, LONG).executor for _ in range(2)] == [chosen] * 2
    assert trials == ["loop", "vectorised"]
    [line] = caplog.messages
    assert line.startswith(f"executor=auto: {chosen}; a step of 3 members takes 1000.0 ms in the loop and")
    assert decided(auto, *group, Recipe(20)).executor == chosen


def test_short_fits_and_single_members_pay_for_no_trial(auto, group, timed):
    modules, batches = group
    trials = timed(loop=1.0, vectorised=0.1)
    assert decided(auto, modules, batches, Recipe(20)).executor == "loop"
    assert decided(auto, modules[:1], batches, LONG).executor == "loop"
    assert trials == []


def test_another_batch_size_is_another_trial(auto, group, timed):
    modules, batches = group
    trials = timed(loop=1.0, vectorised=0.1)
    decided(auto, modules, batches, LONG)
    decided(auto, modules, Batches(batches.inputs, batches.labels, 8, batches.seeds), LONG)
    assert len(trials) == 4


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_an_explicit_choice_is_kept(auto, group, timed, executor):
    trials = timed(loop=1.0, vectorised=1.0)
    assert decided(replace(auto, executor=executor), *group, LONG).executor == executor
    assert trials == []


def test_the_trial_changes_neither_members_nor_randomness(auto, group):
    modules, batches = group
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    state = torch.get_rng_state()
    decided(auto, modules, batches, LONG)
    assert len(choice._chosen) == 1
    assert torch.equal(torch.get_rng_state(), state)
    for old, module in zip(before, modules, strict=True):
        assert all(torch.equal(old[k], v) for k, v in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())


def test_a_net_that_cannot_be_stacked_is_trained_in_the_loop(auto, source_task, caplog):
    caplog.set_level("INFO")
    options = {"patch_size": 4, "img_size": 8, "attn_drop_rate": 0.1}
    architecture = Architecture("test_vit", options, 8, 1, 5, (0.5,), (0.5,))
    modules = [loaded(architecture, architecture.initial(seed)) for seed in range(2)]
    batches = Batches([source_task.train.images] * 2, source_task.train.labels, 4, [1, 2])
    assert decided(auto, modules, batches, LONG).executor == "loop"
    assert any("cannot be stacked" in message for message in caplog.messages)
