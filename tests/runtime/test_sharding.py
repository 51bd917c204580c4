"""The encoder of a sharded module is run where the forward of the module that gathers its weights would run."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from synbench_lightning.runtime.encoder import Encoder
from synbench_lightning.runtime.sharding import _redirected, has_shards, is_sharded, reachable_forward


class Entry(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize("own", [False, True])
def test_a_call_goes_through_the_entry_and_leaves_its_forward_as_it_was(own):
    inner = nn.Linear(3, 2)
    if own:
        inner.forward = lambda x: x - 1
    before, entry, x = dict(vars(inner)), Entry(inner), torch.rand(4, 3)

    def forward(given):
        assert vars(inner).get("forward") is before.get("forward")  # it may want the real one
        return given + 1

    assert torch.equal(_redirected(forward, entry, inner)(x), x + 1)
    assert entry.calls == 1
    assert dict(vars(inner)) == before
    assert torch.equal(entry(x), x - 1 if own else nn.functional.linear(x, inner.weight, inner.bias))


def test_the_forward_is_as_it_was_after_an_error_before_and_in_it():
    inner = nn.Linear(3, 2)

    def failing(x):
        raise KeyError

    class Broken(Entry):
        def forward(self, x):
            raise KeyError

    for entry in (Entry(inner), Broken(inner)):
        with pytest.raises(KeyError):
            _redirected(failing, entry, inner)(torch.rand(4, 3))
        assert "forward" not in vars(inner)


def test_what_wraps_the_whole_module_makes_each_forward_a_collective():
    class DeepSpeed(DeepSpeedStrategy):
        model = None

        def __init__(self):
            """Does without the package."""

    plain, wrapped = nn.Linear(3, 3), FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    assert is_sharded(SimpleNamespace(model=wrapped), plain)
    assert is_sharded(DeepSpeed(), plain)
    assert not is_sharded(SimpleNamespace(model=plain), plain)


@pytest.fixture
def alone():
    """A group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("nested", [False, True])
def test_an_encoder_within_a_sharded_module_is_reached_through_it(alone, nested):
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    root = nn.Module()
    root.plain, root.outer = nn.Linear(3, 3), Entry(Entry(nn.Linear(3, 2)))
    for part in [root.outer.inner, root.outer] if nested else [root.outer]:
        fully_shard(part, mesh=mesh)
    strategy, x = SimpleNamespace(model=root), torch.rand(4, 3)
    assert [has_shards(one) for one in (root, root.outer, root.outer.inner, root.plain)] == [True, True, nested, False]
    assert is_sharded(strategy, root)
    assert not is_sharded(strategy, root.plain)
    layer = root.outer.inner.inner
    encoder = Encoder("layer", lambda given: layer(given) + 1, (root, root.outer, root.outer.inner))
    found = reachable_forward(encoder, strategy, root)(x)
    assert (root.outer.calls, root.outer.inner.calls) == (0, 0)  # the encoder runs in their place
    torch.testing.assert_close(found, root.outer(x) + 1)
    assert (root.outer.calls, root.outer.inner.calls) == (1, 1)
    free = Encoder("plain", root.plain, (root,))
    assert reachable_forward(free, strategy, root) is root.plain
