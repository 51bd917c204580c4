"""What a device can do, as far as a machine without an accelerator shows it."""

import torch

from synbench_lightning.runtime.devices import free_bytes, free_memory, is_memory_error, pinned, statistics_device


def test_statistics_stay_on_a_device_that_has_float64():
    assert statistics_device(torch.device("meta")) == torch.device("meta")
    assert statistics_device(torch.device("cpu")) == torch.device("cpu")


def test_the_memory_of_the_cpu_is_not_looked_at():
    assert free_bytes(torch.device("cpu")) == 0
    free_memory(torch.device("cpu"))


def test_errors_of_memory_are_told_by_their_class_or_their_words():
    assert is_memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"))
    assert is_memory_error(RuntimeError("MPS backend Out of Memory"))
    assert not is_memory_error(RuntimeError("shape mismatch"))


def test_a_tensor_is_the_same_in_pinned_memory_and_stays_where_it_is_on_another_device():
    x = torch.rand(3)
    assert torch.equal(pinned(x), x)
    other = torch.rand(3, device="meta")
    assert pinned(other) is other
