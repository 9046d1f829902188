"""What the pretend device has to do as a GPU does, so that the other tests mean something."""

import pytest
import torch
from pretend_cuda import counted, total

CUDA = torch.device("cuda")


def counts_of(call):
    with counted() as counts:
        call()
    return total(counts, "wait"), total(counts, "copy")


def test_tensors_of_two_devices_are_refused():
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(3, device=CUDA) + torch.ones(3)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(3, device=CUDA, generator=torch.Generator())
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        torch.ones(3, device=CUDA).numpy()


def test_memory_that_nobody_wrote_is_not_a_number_and_its_amount_is_counted():
    before = torch.cuda.memory_allocated()
    fresh = torch.empty(1000, device=CUDA)
    assert fresh.isnan().all()
    assert torch.cuda.memory_allocated() == before + 4000
    del fresh
    assert torch.cuda.memory_allocated() == before


def test_waits_and_copies_are_told_apart():
    there, here, pinned = torch.ones(3, device=CUDA), torch.ones(3), torch.ones(3).pin_memory()
    assert counts_of(lambda: there * 2 + 1) == (0, 0)
    assert counts_of(lambda: here.to(CUDA)) == (1, 1)
    assert counts_of(lambda: here.to(CUDA, non_blocking=True)) == (1, 1)  # pageable memory
    assert counts_of(lambda: pinned.to(CUDA)) == (1, 1)
    assert counts_of(lambda: pinned.to(CUDA, non_blocking=True)) == (0, 1)
    assert counts_of(there.tolist) == (1, 1)
    assert counts_of(lambda: there.sum().item()) == (1, 1)
    assert counts_of(lambda: there[there > 0])[0] >= 1
    assert counts_of(torch.cuda.synchronize) == (1, 0)


def test_random_numbers_are_those_of_a_seed_but_not_the_cpus():
    torch.manual_seed(1)
    one, here = torch.rand(3, device=CUDA), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3, device=CUDA), one)
    assert not torch.equal(one.cpu(), here)


def test_results_are_those_of_the_cpus_kernels():
    x, weight = torch.randn(4, 3, 8, 8), torch.randn(5, 3, 3, 3, requires_grad=True)
    there = weight.detach().to(CUDA).requires_grad_()
    torch.nn.functional.conv2d(x, weight).relu().sum().backward()
    torch.nn.functional.conv2d(x.to(CUDA), there).relu().sum().backward()
    assert torch.equal(there.grad.cpu(), weight.grad)
