import random

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning.runtime.isolation import isolated, seed_generators


class Counter(nn.Module):
    """Changes its buffers in every forward, in place and by assignment, and draws from every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        self.last = x.mean(0)
        return x * random.random() * np.random.rand() * torch.rand(())


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("fails", [False, True])
def test_modes_buffers_and_random_states_are_as_before_also_after_an_error(fails):
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3), Counter())
    module[2].eval()
    modes = [submodule.training for submodule in module.modules()]
    last, before = module[3].last, states()
    with pytest.raises(ZeroDivisionError) if fails else isolated(None), isolated(module):
        assert not any(submodule.training for submodule in module.modules())
        assert not torch.is_grad_enabled()
        module(torch.ones(4, 3))
        assert module[3].count == 1
        if fails:
            1 / 0  # noqa: B018
    assert [submodule.training for submodule in module.modules()] == modes
    assert module[3].count == 0
    assert module[3].last is last
    assert states() == before
    assert torch.is_grad_enabled()


def test_encoders_that_draw_draw_alike_in_every_probe():
    module, found = Counter(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with isolated(module):
            found.append(module(torch.ones(2, 1)))
    assert torch.equal(*found)


def test_the_seed_of_a_probe_is_the_same_in_every_version():
    with isolated(None):
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_the_global_generators_take_seeds_of_more_than_32_bits():
    seed = 2**40 + 2**32 + 777
    with isolated(None):
        seed_generators(seed)
        assert random.random() == random.Random(seed).random()
        assert np.random.rand() == np.random.RandomState(777).rand()  # modulo 2**32
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))


def test_a_mode_that_is_switched_with_side_effects_is_not_switched():
    class Merging(nn.Linear):
        """As adapters that are merged into the weights in evaluation mode."""

        def train(self, mode=True):
            self.weight.data.add_(1.0 if mode else -1.0)
            return super().train(mode)

    module = Merging(2, 2)
    before = module.weight.clone()
    with isolated(module):
        assert torch.equal(module.weight, before)
    assert torch.equal(module.weight, before)


def test_nothing_is_compiled():
    compiled = []
    module = torch.compile(nn.Linear(3, 3), backend=lambda graph, _: compiled.append(graph) or graph.forward)
    with isolated(module):
        module(torch.ones(4, 3))
    assert not compiled


def test_a_layer_that_the_body_would_initialise_is_refused_and_stays_as_it_is():
    module = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'1.weight' is not initialized yet"), isolated(module):
        module(torch.ones(4, 2))
    assert module[1].has_uninitialized_params()


def test_an_operation_without_a_deterministic_implementation_is_made_and_the_mode_is_put_back():
    try:
        torch.use_deterministic_algorithms(True)
        numbers = torch.zeros(3)
        with isolated(nn.Linear(2, 2)):
            numbers.put_(torch.tensor([1]), torch.tensor([2.0]))  # has none, on any device
            assert torch.are_deterministic_algorithms_enabled()
        assert numbers.tolist() == [0, 2, 0]
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        with pytest.raises(RuntimeError, match="deterministic"):
            numbers.put_(torch.tensor([1]), torch.tensor([2.0]))
    finally:
        torch.use_deterministic_algorithms(False)
