"""Groups that fit into memory, and what happens to one that does not."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ensemble_transfer import spill
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.embedded import MnistSample
from ensemble_transfer.training import groups as groups_module
from ensemble_transfer.training import spec as work_module
from ensemble_transfer.training.cost import measured
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.memory import Need, forward_bytes, graph_bytes, is_out_of_memory
from ensemble_transfer.training.recipe import Recipe

CPU = torch.device("cpu")
CUDA_FAILURE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def allocation_failure():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_what_torch_says_where_memory_lacks_is_recognised():
    assert is_out_of_memory(allocation_failure())
    assert is_out_of_memory(CUDA_FAILURE)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN under `ulimit -v`
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
    )
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_the_graph_of_a_linear_net_is_its_inputs_weights_and_activations():
    net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.Sigmoid(), nn.Linear(50, 10, bias=False))
    inputs, hidden, second = 8 * 100, 8 * 50, 50 * 10
    assert graph_bytes(net, torch.empty(8, 100, device="meta")) == 4 * (inputs + hidden + second)


@pytest.mark.parametrize(
    ("free", "vectorised", "members"), [(1000, False, 35), (1000, True, 6), (100, False, 1), (0, True, 1)]
)
def test_members_that_fit_hold_one_graph_together_or_one_each(free, vectorised, members):
    assert Need(weights=20, graph=100).members(free, vectorised) == members


@pytest.fixture
def groups(monkeypatch):
    """Record the sizes of the groups that are trained; those above a limit fail for lack of memory."""
    tried = []
    run_group = groups_module.run_group

    def limited(limit, failure):
        def run(group, *rest):
            tried.append(len(group.modules))
            if len(group.modules) > limit:
                raise failure
            return run_group(group, *rest)

        monkeypatch.setattr(groups_module, "run_group", run)
        return tried

    return limited


def fit(fitter, backbone, source_task):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(5)]
    return fitter.fit(architecture, starts, source_task.train, Recipe(2), "full").weights


@pytest.mark.parametrize("failure", [CUDA_FAILURE, allocation_failure()], ids=["gpu", "cpu"])
def test_a_group_without_enough_memory_is_halved_and_the_fit_goes_on(
    settings, store, backbone, source_task, groups, caplog, failure
):
    whole = fit(Fitter(settings), backbone, source_task)
    tried = groups(2, failure)
    halved = fit(Fitter(settings, store), backbone, source_task)
    assert tried == [5, 2, 2, 1]
    told = [message for message in caplog.messages if "training members" not in message]
    assert told == ["out of memory with 5 members in lockstep; going on with 2"]
    for a, b in zip(whole, halved, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(store.root.glob("unfinished/*"))


def test_other_failures_and_a_single_member_without_memory_are_raised(settings, backbone, source_task, groups):
    tried = groups(0, MemoryError())
    with pytest.raises(MemoryError, match=r"^out of memory in phase 'full' with member 1 alone .*; lower batch_size"):
        fit(Fitter(settings), backbone, source_task)
    assert tried == [5, 2, 1]
    groups(0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        fit(Fitter(settings), backbone, source_task)


@pytest.mark.parametrize(("executor", "members"), [("loop", 3), ("auto", 3), ("vectorised", 2)])
def test_without_a_group_size_as_many_members_train_as_fit(
    settings, backbone, source_task, groups, monkeypatch, executor, members
):
    monkeypatch.setattr(work_module, "_needs", {})
    monkeypatch.setattr(work_module, "need_of", lambda *_: Need(weights=20, graph=20))
    monkeypatch.setattr(work_module.FitSpec, "held_bytes", lambda _: 0)
    monkeypatch.setattr(groups_module, "free_memory", lambda *_: 100)
    tried = groups(9, None)
    fit(Fitter(replace(settings, executor=executor)), backbone, source_task)
    assert tried[0] == members
    assert sum(tried) == 5


PLAN = """
import sys
import torch
from ensemble_transfer.models.backbone import Backbone
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training import groups, spec
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.settings import TrainerSettings
from ensemble_transfer.training.trained_part import HeadOnFeatures
members, images, width = map(int, sys.argv[1:4])
groups.ALONE = frozenset()  # as on a GPU: heads in groups
options = {"channels": [4, 4, 4, width], "stem_width": 4, "output_stride": 32}
architecture = Backbone("resnet10t", options).architecture(8, 1, 10)
data = Split(torch.zeros(images, 1, 8, 8, dtype=torch.uint8), torch.arange(images) % 10)
status = lambda name: 1024 * int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1])
starts_of = lambda members: [Start(m, architecture.initial(m), m) for m in range(members)]
def fit(data, recipe, starts):
    settings = TrainerSettings("cpu", threads=1, progress=False, group_size=len(starts))
    Fitter(settings).fit_heads(architecture, starts, data, recipe, "head")
fit(Split(data.images[:256], data.labels[:256]), Recipe(4, batch_size=64), starts_of(1))  # what torch loads once
starts, recipe = starts_of(members), Recipe(images // 64, batch_size=64)
before = status("VmRSS")
fit(data, recipe, starts)
need = spec.FitSpec(HeadOnFeatures(architecture), data, recipe, "head").need()
print(members * need.weights + need.graph, status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("members", [1, 4])
def test_heads_take_the_memory_that_is_planned_for_them(members):
    done = subprocess.run(
        [sys.executable, "-c", PLAN, str(members), "40000", "256"], capture_output=True, text=True, check=True
    )
    planned, peak = map(int, done.stdout.split())
    assert planned > members * 40_000 * 256 * 4
    assert abs(peak / planned - 1) < 0.2


def test_features_that_do_not_fit_go_to_a_file_and_the_heads_are_the_same(settings, backbone, source_task, monkeypatch):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(2)]

    def weights():
        return Fitter(settings).fit_heads(architecture, starts, source_task.train, Recipe(5), "head").weights

    in_memory, mapped = weights(), []
    monkeypatch.setattr(spill, "SMALL", 0)
    monkeypatch.setattr(groups_module, "free_memory", lambda *_: 0)
    monkeypatch.setattr(spill, "_reserve", lambda file, size: (mapped.append(size), os.ftruncate(file, size)))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(in_memory, weights(), strict=True) for name in a)
    assert mapped == [4 * 160 * (architecture.features + 1)] * 2  # five batches; one head after another


def test_a_pass_without_gradients_holds_two_activations():
    net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.Sigmoid(), nn.Linear(50, 10, bias=False))
    assert forward_bytes(net, torch.empty(8, 100)) == 4 * 8 * (50 + 50)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_32_members_of_the_default_net_take_less_than_2_gb(settings):
    options = {"channels": [8, 16, 32, 64], "stem_width": 8, "output_stride": 8}
    architecture = Backbone("resnet10t", options).architecture(28, 1, 10)
    data = MnistSample(train=100).load(28, 1).train
    starts = [Start(member, architecture.initial(member), member) for member in range(32)]
    with measured(CPU) as before:
        pass
    with measured(CPU) as meter:
        Fitter(settings).fit(architecture, starts, data, Recipe(1), "full")
    assert 0 < meter.peak_memory_bytes - before.peak_memory_bytes < 2e9
