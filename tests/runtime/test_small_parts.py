"""Files, widths, watched calls and names of layers, at their limits."""

import io

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.call_recorder import watch_calls
from synbench_lightning.runtime.channel_layout import Widths
from synbench_lightning.runtime.layer_encoder import LayerEncoder, layer_or_encoder
from synbench_lightning.runtime.shared_state import _is_open_file


def test_a_file_is_open_where_it_has_a_descriptor(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert _is_open_file(file)
    assert not _is_open_file(file)
    assert not _is_open_file(io.BytesIO(b"in memory"))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_an_output_have_no_width():
    assert set(Widths.of(nn.Sequential(nn.Linear(3, 0), nn.Linear(3, 4), nn.LazyLinear(1))).layers) == {4, 1}


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x

    def embed(self, x, scale=1.0):
        return x * scale


@pytest.mark.parametrize("method", ["", "embed"])
def test_calls_of_one_module_in_training_are_watched_until_it_is_stopped(method):
    root, seen, x = nn.Module(), [], torch.rand(2, 3)
    root.net, root.other = Doubling(), Doubling()
    stop = watch_calls(root, ("net", method), lambda arguments: seen.append((arguments.args, arguments.kwargs)))

    def call(module, **more):
        (getattr(module, method) if method else module)(x, **more)

    call(root.net)
    call(root.other)
    assert len(seen) == 1
    root.eval()
    call(root.net)
    root.train()
    assert len(seen) == 1
    if method:
        call(root.net, scale=2.0)
        assert seen.pop()[1] == {"scale": 2.0}
    stop()
    call(root.net)
    assert len(seen) == 1
    assert seen[0][0][0] is x


class Prepared(nn.Module):
    """Takes three features, and gives its inner network six."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))

    def forward(self, x):
        return self.inner(torch.cat([x, -x], -1))


def test_a_layer_is_read_in_the_innermost_module_that_takes_the_input():
    net, three, six = Prepared().eval(), torch.rand(4, 3), torch.rand(4, 6)
    assert layer_or_encoder(net, "inner", six) is net.inner
    for x, inner_owner in ((three, False), (six, True)):
        found = layer_or_encoder(net, "inner.1", x)
        assert isinstance(found, LayerEncoder)
        expected = net.inner(x) if inner_owner else net(x)
        torch.testing.assert_close(found(x), expected)
    assert layer_or_encoder(net, "inner.1", torch.rand(4, 7)) is net.inner[1]  # nothing takes it
    assert layer_or_encoder(net, "inner.forward", three) == net.inner.forward
