"""What only a GPU can show. Run them all with: python -m pytest -m gpu"""

from dataclasses import replace

import pytest
import torch

from ensemble_transfer.strategies.shift import Shift
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ON_GPU = TrainerSettings(progress=False)  # auto: the GPU, since the tests run only where there is one


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_a_fit_on_the_gpu_is_the_fit_on_the_cpu_within_tolerance(backbone, source_task, settings, executor):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), seed=member) for member in range(3)]
    recipe = Recipe(5, optimizer="sgd", lr=0.05)
    here = Fitter(settings).fit(architecture, starts, source_task.train, recipe, "full")
    there = Fitter(replace(ON_GPU, executor=executor)).fit(architecture, starts, source_task.train, recipe, "full")
    for a, b in zip(here.weights, there.weights, strict=True):
        assert all(torch.allclose(a[name].float(), b[name].float(), atol=2e-2, rtol=2e-2) for name in a)
    assert all(tensor.device.type == "cpu" for member in there.weights for tensor in member.values())
    assert there.fitted[0].cost.peak_memory_bytes > 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_whole_transfer_runs_on_the_gpu(source_ensemble, target_task, recipes, precision):
    fitter = Fitter(replace(ON_GPU, precision=precision))
    result = Shift().transfer(source_ensemble, target_task, 0, recipes, fitter)
    probabilities = result.ensemble.predict(target_task.test.images, "cuda")
    on_cpu = result.ensemble.predict(target_task.test.images, "cpu")
    assert torch.allclose(probabilities, on_cpu, atol=1e-2)
