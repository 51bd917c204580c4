"""What is asked of a device, on machines without an accelerator and with one that answers as torch's do."""

from contextlib import contextmanager

import pytest
import torch

from synbench_lightning.runtime.devices import (
    default_device,
    free_bytes,
    free_memory,
    is_memory_error,
    pinned,
    seed_accelerator,
    statistics_device,
)

CUDA = torch.device("cuda")


class OneDevice:
    """A device module with one generator, as `torch.mps`; ``emptied`` counts how often its cache was released."""

    def __init__(self, seeds=(1,)):
        self.seeds, self.emptied = list(seeds), 0

    def get_rng_state(self):
        return self.seeds[0]

    def set_rng_state(self, state):
        self.seeds[0] = state

    def manual_seed(self, seed):
        self.seeds[0] = seed

    def empty_cache(self):
        self.emptied += 1


class ManyDevices(OneDevice):
    """One with a generator for each device, as `torch.cuda`."""

    initialized = True

    def is_initialized(self):
        return self.initialized

    def get_rng_state_all(self):
        return list(self.seeds)

    def set_rng_state_all(self, states):
        self.seeds = list(states)

    def manual_seed_all(self, seed):
        self.seeds = [seed] * len(self.seeds)

    def mem_get_info(self, device):
        return (300, 400) if device == CUDA else (30, 40)


@pytest.fixture
def machine(monkeypatch):
    """Gives this machine an accelerator, of which torch says whether it can be used."""

    def with_accelerator(module, available=True):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
        monkeypatch.setattr(torch, "get_device_module", lambda device: module)
        return module

    return with_accelerator


@contextmanager
def seeded(seed):
    restore = seed_accelerator(seed)
    yield
    restore()


def test_the_generators_of_all_devices_are_seeded_and_restored(machine):
    module = machine(ManyDevices([4, 5, 6]))
    with seeded(9):
        assert module.seeds == [9, 9, 9]
        module.seeds = [1, 2, 3]  # drawn from
    assert module.seeds == [4, 5, 6]


def test_a_device_with_one_generator_is_seeded_and_restored(machine):
    module = machine(OneDevice([4]))
    with seeded(9):
        assert module.seeds == [9]
    assert module.seeds == [4]


@pytest.mark.parametrize(("module", "available"), [(ManyDevices([4, 5]), True), (OneDevice([4]), False)])
def test_an_accelerator_that_is_not_in_use_is_left_alone(module, available, machine):
    module.initialized = False
    before = list(machine(module, available).seeds)
    with seeded(9):
        assert module.seeds == before
        module.seeds = [7]  # set by whoever uses it first, and kept
    assert module.seeds == [7]


def test_without_an_accelerator_nothing_is_seeded(monkeypatch):
    def refuse():
        raise RuntimeError("there is none")  # torch 2.6

    for ask in (refuse, lambda: None):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", ask)
        with seeded(9):
            pass


def test_the_device_is_an_accelerator_that_can_be_used_or_else_the_cpu(machine):
    machine(OneDevice())
    assert default_device() == CUDA
    machine(OneDevice(), available=False)
    assert default_device() == torch.device("cpu")


def test_statistics_stay_on_a_device_that_has_float64():
    assert statistics_device(torch.device("meta")) == torch.device("meta")
    assert statistics_device(torch.device("cpu")) == torch.device("cpu")
    assert statistics_device(torch.device("mps")) == torch.device("cpu")  # never has it, on machines with one too


def test_free_memory_is_asked_of_the_device_if_it_can_tell(machine):
    assert free_bytes(torch.device("cpu")) == 0
    machine(ManyDevices())
    assert free_bytes(CUDA) == 300
    assert free_bytes(torch.device("cuda", 1)) == 30
    machine(OneDevice())
    assert free_bytes(CUDA) == 0


def test_the_cache_of_a_device_is_released_if_it_has_one(machine):
    free_memory(torch.device("cpu"))
    module = machine(ManyDevices())
    free_memory(CUDA)
    assert module.emptied == 1


def test_errors_of_memory_are_told_by_their_class_or_their_words():
    assert is_memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"))
    assert is_memory_error(RuntimeError("MPS backend Out of Memory"))
    assert not is_memory_error(RuntimeError("shape mismatch"))


def test_a_tensor_is_the_same_in_pinned_memory_and_stays_where_it_is_on_another_device():
    x = torch.rand(3)
    assert torch.equal(pinned(x), x)
    other = torch.rand(3, device="meta")
    assert pinned(other) is other
