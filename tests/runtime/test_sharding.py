"""The encoder of a sharded module is run where the forward of the module that gathers its weights would run."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.sharding import _redirected


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
