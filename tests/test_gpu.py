"""What only a GPU can show. Run them all with: python -m pytest -m gpu"""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from fits import in_doubles, stopped_after
from torch import nn

from ensemble_transfer import EnsembleModule, TaskDataModule
from ensemble_transfer.machine import free_memory
from ensemble_transfer.models import copies
from ensemble_transfer.models.architecture import Architecture
from ensemble_transfer.models.copies import move
from ensemble_transfer.training.batches import BATCHED, Batches
from ensemble_transfer.training.course import Course
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.groups import is_out_of_memory
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.trainer import quiet_lightning
from ensemble_transfer.transfer.base import transfer_ensemble
from ensemble_transfer.transfer.strategies.shift import Shift

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CUDA = torch.device("cuda")
ON_GPU = TrainerSettings(progress=False)  # auto: the GPU, since the tests run only where there is one


@pytest.mark.parametrize("executor", ["loop", "vectorised"])
def test_a_fit_on_the_gpu_is_the_fit_on_the_cpu_within_tolerance(backbone, source_task, settings, executor):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), seed=member) for member in range(3)]
    recipe = Recipe(5, optimizer="sgd", lr=0.05)
    here = Fitter(settings).fit(architecture, starts, source_task, recipe, "full")
    there = Fitter(replace(ON_GPU, executor=executor)).fit(architecture, starts, source_task, recipe, "full")
    for a, b in zip(here.weights, there.weights, strict=True):
        assert all(torch.allclose(a[name].float(), b[name].float(), atol=2e-2, rtol=2e-2) for name in a)
    assert all(tensor.device.type == "cpu" for member in there.weights for tensor in member.values())
    assert there.fitted[0].cost.peak_memory_bytes > 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_whole_transfer_runs_on_the_gpu(source_ensemble, target_task, recipes, precision):
    fitter = Fitter(replace(ON_GPU, precision=precision))
    result = transfer_ensemble(Shift(), source_ensemble, target_task, 0, recipes, fitter)
    probabilities = result.ensemble.predict(target_task.test.images, "cuda")
    on_cpu = result.ensemble.predict(target_task.test.images, "cpu")
    assert torch.allclose(probabilities, on_cpu, atol=1e-2)


@pytest.mark.parametrize("augment", sorted(BATCHED))
def test_batches_on_the_gpu_are_those_of_the_cpu(source_task, augment):
    here = Batches(source_task.train.images, source_task.train.labels, 16, [4, 5, 6], augment)
    there = here.on(torch.device("cuda"))
    for step in range(20):
        for mine, other in zip(here[step], there[step], strict=True):
            assert other.is_cuda
            assert torch.equal(mine, other.cpu())


NET = {"channels": [4, 8, 8, 8], "stem_width": 4, "output_stride": 8}


def test_vectorised_members_are_those_of_the_loop_on_the_gpu(source_task):
    net, recipe = Architecture("resnet10t", NET, 8, 1, 5, (0.5,), (0.5,)), Recipe(5, 16, "sgd", lr=0.05, clip=0.5)
    starts = [Start(member, net.initial(member), 4 + member) for member in range(3)]
    settings = (replace(ON_GPU, executor=executor) for executor in ("loop", "vectorised"))
    results = [in_doubles(net, starts, source_task.train, recipe, own) for own in settings]
    for a, b in zip(*results, strict=True):
        assert all(torch.allclose(a[name].double(), b[name].double(), rtol=1e-6, atol=1e-6) for name in a)


@pytest.mark.parametrize(
    "options",
    [{"executor": "auto"}, {"channels_last": True}, {"executor": "vectorised", "precision": "bf16-mixed"}],
    ids=str,
)
def test_every_way_to_train_on_the_gpu_learns(backbone, source_task, options):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), seed=member) for member in range(3)]
    fitter = Fitter(replace(ON_GPU, **options))
    for fitted in fitter.fit(architecture, starts, source_task, Recipe(150, lr=1e-2), "full").fitted:
        assert fitted.curve[-1, 1] < 0.5 * fitted.curve[0, 1]


def test_memory_that_the_gpu_lacks_is_recognised():
    device = torch.device("cuda")
    assert 0 < free_memory(device) <= torch.cuda.get_device_properties(device).total_memory
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**50, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("block", [1, 300, 2**28])
def test_a_module_that_moves_keeps_names_layouts_and_tied_weights_and_drops_gradients(monkeypatch, block):
    monkeypatch.setattr(copies, "BLOCK", block)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].to(memory_format=torch.channels_last)
    net[3].weight = net[2].weight
    parameters, before = list(net.parameters()), {name: t.stride() for name, t in net.state_dict().items()}
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    move(net, CUDA)
    assert all(tensor.is_cuda for tensor in net.state_dict().values())
    assert {name: tensor.stride() for name, tensor in net.state_dict().items()} == before
    assert all(mine is other for mine, other in zip(net.parameters(), parameters, strict=True))  # an optimizer has them
    assert net[3].weight is net[2].weight
    assert all(parameter.grad is None for parameter in parameters)
    move(net, torch.device("cpu"))
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())


def test_batches_of_a_data_module_are_sent_from_pinned_memory(target_task, source_ensemble):
    recipe = Recipe(2, batch_size=25)
    module, data = EnsembleModule(source_ensemble, recipe, target_task.classes), TaskDataModule(target_task, recipe)
    assert not next(iter(data.train_dataloader()))[0].is_pinned()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with quiet_lightning():
        pl.Trainer(accelerator="gpu", max_epochs=1, limit_val_batches=0, **quiet).fit(module, data)
        assert all(tensor.is_pinned() for tensor in next(iter(data.train_dataloader())))
    assert next(iter(data.test_dataloader()))[0].is_pinned()


@pytest.mark.parametrize(("before", "after"), [("loop", "vectorised"), ("vectorised", "loop")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fit_goes_on_with_the_checkpoint_of_either_executor(
    source_task, backbone, store, monkeypatch, before, after, optimizer
):
    architecture, recipe = backbone.architecture(8, 1, 5), Recipe(6, optimizer=optimizer, lr=1e-3, augment="crop_flip")
    starts = [Start(member, architecture.initial(member), seed=member) for member in range(2)]

    def fit(executor, store=None):
        fitter = Fitter(replace(ON_GPU, executor=executor, checkpoint_seconds=1e-9, workers=1), store)
        return fitter.fit(architecture, starts, source_task, recipe, "full").weights

    with stopped_after(3), pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(before, store)
    assert len(list(store.root.glob("unfinished/*/*"))) == 2
    steps, streams = [], Course.streams
    monkeypatch.setattr(Course, "streams", lambda course: steps.append(course.step) or streams(course))
    for a, b in zip(fit(after, store), fit(after), strict=True):
        assert all(torch.allclose(a[name].float(), b[name].float(), atol=1e-3) for name in a)
    assert steps == [3, 4, 5, 0, 1, 2, 3, 4, 5]
