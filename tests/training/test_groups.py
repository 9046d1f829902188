"""Groups that fit into memory, and what happens to one that does not."""

import os
from dataclasses import replace

import pytest
import torch

from ensemble_transfer import spill
from ensemble_transfer.training import groups as groups_module
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.groups import is_out_of_memory
from ensemble_transfer.training.recipe import Recipe
from ensemble_transfer.training.spec import FitSpec

CUDA_FAILURE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def allocation_failure():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_what_torch_says_where_memory_lacks_is_recognised():
    for error in (
        allocation_failure(),
        CUDA_FAILURE,
        MemoryError(),
        RuntimeError("could not create a primitive"),  # oneDNN under `ulimit -v`
        OSError(12, "Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ):
        assert is_out_of_memory(error), error
    for error in (
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        OSError(28, "No space left on device"),
    ):
        assert not is_out_of_memory(error), error


@pytest.fixture
def groups(monkeypatch):
    """Record the sizes of the groups that are trained; those above a limit fail for lack of memory."""
    tried = []
    whole = groups_module.Lockstep

    def limited(limit, failure=None):
        def make(modules, *rest):
            tried.append(len(modules))
            if len(modules) > limit:
                raise failure
            return whole(modules, *rest)

        monkeypatch.setattr(groups_module, "Lockstep", make)
        return tried

    return limited


def fit(fitter, backbone, source_task):
    architecture = backbone.architecture(8, 1, 5)
    starts = [Start(member, architecture.initial(member), member) for member in range(5)]
    return fitter.fit(architecture, starts, source_task.train, Recipe(2), "full").weights


def test_a_group_without_enough_memory_is_halved_and_the_fit_goes_on(
    settings, store, backbone, source_task, groups, caplog
):
    whole = fit(Fitter(settings), backbone, source_task)
    tried = groups(2, CUDA_FAILURE)
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


@pytest.mark.parametrize(("executor", "members"), [("auto", 3), ("vectorised", 2)])
def test_without_a_group_size_as_many_members_train_as_fit(
    settings, backbone, source_task, groups, monkeypatch, executor, members
):
    monkeypatch.setattr(FitSpec, "need", lambda _: (20, 20))
    monkeypatch.setattr(groups_module, "free_memory", lambda *_: 100)
    tried = groups(9)
    fit(Fitter(replace(settings, executor=executor)), backbone, source_task)
    assert tried[0] == members
    assert sum(tried) == 5


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
