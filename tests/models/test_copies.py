"""Copies of many tensors at once, here from the CPU to itself; tests/test_gpu.py moves a module."""

import torch

from ensemble_transfer.models.copies import ALIGNMENT, in_one_copy

CPU = torch.device("cpu")


def test_tensors_that_are_copied_together_keep_value_type_and_layout():
    tensors = [
        torch.arange(7, dtype=torch.uint8),
        torch.tensor(3),
        torch.randn(4, 3, 5, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
        torch.randn(6, 2, dtype=torch.bfloat16).T,
        torch.empty(0, 3),
        torch.tensor([True, False]),
        torch.arange(8.0)[2:5],
    ]
    found = in_one_copy(tensors, CPU)
    for tensor, other in zip(tensors, found, strict=True):
        assert (other.dtype, other.shape, other.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert torch.equal(other, tensor)
        assert other.data_ptr() % other.element_size() == 0
    assert len({other.untyped_storage().data_ptr() for other in found}) == 1
    starts = [other.storage_offset() * other.element_size() for other in found]
    assert all(start % ALIGNMENT == 0 for start in starts)
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= found[0].untyped_storage().nbytes()
