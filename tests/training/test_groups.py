"""Groups that fit into memory, and what happens to one that does not."""

import os
from functools import partial

import pytest
import torch
from fits import assert_same

from ensemble_transfer import Recipe, spill
from ensemble_transfer.training import groups as groups_module
from ensemble_transfer.training.groups import is_out_of_memory
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
    whole = groups_module.grouped

    def limited(limit, failure=None):
        def make(modules, *rest):
            tried.append(len(modules))
            if len(modules) > limit:
                raise failure
            return whole(modules, *rest)

        monkeypatch.setattr(groups_module, "grouped", make)
        return tried

    return limited


@pytest.fixture
def train(train):
    return partial(train, range(5), Recipe(2))


def test_a_group_without_enough_memory_is_halved_and_the_fit_goes_on(train, store, groups, caplog):
    whole = train()
    tried = groups(2, CUDA_FAILURE)
    halved = train(store)
    assert tried == [5, 2, 2, 1]
    told = [message for message in caplog.messages if "training members" not in message]
    assert told == ["out of memory with 5 members in lockstep; going on with 2"]
    assert_same(halved, whole)
    assert not list(store.root.glob("unfinished/*"))


def test_other_failures_and_a_single_member_without_memory_are_raised(train, groups):
    tried = groups(0, MemoryError())
    with pytest.raises(MemoryError, match=r"^out of memory in phase 'full' with member 1 alone .*; lower batch_size"):
        train()
    assert tried == [5, 2, 1]
    groups(0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        train()


@pytest.mark.parametrize(("executor", "members"), [("auto", 3), ("vectorised", 2)])
def test_without_a_group_size_as_many_members_train_as_fit(train, groups, monkeypatch, executor, members):
    monkeypatch.setattr(FitSpec, "need", lambda _: (20, 20))
    monkeypatch.setattr(groups_module, "free_memory", lambda *_: 100)
    tried = groups(9)
    train(executor=executor)
    assert tried[0] == members
    assert sum(tried) == 5
    monkeypatch.setattr(groups_module, "LARGEST_GROUP", 1)
    tried.clear()
    train(executor=executor)
    assert tried == [1] * 5


def test_features_that_do_not_fit_go_to_a_file_and_the_heads_are_the_same(train, architecture, monkeypatch):
    in_memory, mapped = train(heads=True), []
    monkeypatch.setattr(spill, "SMALL", 0)
    monkeypatch.setattr(groups_module, "free_memory", lambda *_: 0)
    monkeypatch.setattr(spill, "_reserve", lambda file, size: (mapped.append(size), os.ftruncate(file, size)))
    assert_same(train(heads=True), in_memory)
    assert mapped == [4 * 64 * (architecture.features + 1)] * 5  # two batches; one head after another
