"""What happens where the memory of a device is short."""

from dataclasses import replace

import pretend_cuda
import pytest
import torch

from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.groups import released
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings

SETTINGS = TrainerSettings("gpu", executor="vectorised", group_size=8, workers=1, progress=False)


@pytest.fixture
def fit(backbone, source_task):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(8)]

    def run(settings):
        return Fitter(settings).fit(architecture, starts, source_task, Recipe(2), "full")

    return run


@pytest.fixture
def limit():
    before = torch.cuda.get_device_properties(0).total_memory
    yield lambda spare: pretend_cuda.set_limit(torch.cuda.memory_allocated() + spare)
    pretend_cuda.set_limit(before)


def test_a_group_that_the_device_cannot_hold_is_halved_and_leaves_nothing_there(fit, limit, caplog):
    released()
    used = torch.cuda.memory_allocated()
    whole = fit(SETTINGS)
    needed = whole.fitted[0].cost.peak_memory_bytes - used
    released()
    assert torch.cuda.memory_allocated() == used
    limit(int(0.7 * needed))
    halved = fit(SETTINGS)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ["out of memory with 8 members in lockstep; going on with 4"]
    for a, b in zip(whole.weights, halved.weights, strict=True):
        assert all(torch.allclose(a[name].float(), b[name].float(), atol=1e-4) for name in a)


def test_without_a_group_size_a_group_is_planned_that_fits(fit, limit, caplog):
    limit(fit(SETTINGS).fitted[0].cost.peak_memory_bytes // 2)
    fit(replace(SETTINGS, group_size=None))
    assert not any(record.levelname == "WARNING" for record in caplog.records)
