"""Features of several layers from one forward."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.collectives import SingleProcess
from synbench_lightning.runtime.encoder_call import Head
from synbench_lightning.runtime.features import FeatureReader
from synbench_lightning.runtime.layer_reading import LayerReader, check_layers
from tests.runtime.test_layer_selection import VisionTransformer, block


def chosen(module, layers, x, **arguments):
    reader, read = LayerReader(module.eval(), layers, **arguments), FeatureReader(module)
    with torch.no_grad():
        reader.choose(lambda: module(x), read, len(x), tuple(x.shape[1:]), SingleProcess())
    return reader, read


@torch.no_grad()
def features(module, layers, x, batch):
    reader, read = chosen(module, layers, x[:3])
    with reader.attached(read, tuple(x.shape[1:])) as layered:
        whole = torch.cat([layered(module(part), len(part), tuple(x.shape[1:])) for part in x.split(batch)])
    return dict(zip(reader.names, layered.split(whole), strict=True))


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def test_the_features_are_those_of_the_network_cut_behind_each_layer_with_the_mean_over_space():
    torch.manual_seed(0)
    network = nn.Sequential(block(3, 4), block(4, 8), block(8, 8, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    x = torch.randn(10, 3, 8, 8)
    found = features(network, "auto", x, batch=4)
    assert list(found) == ["0", "1", "2", "output"]
    with torch.no_grad():
        for depth in range(3):
            torch.testing.assert_close(found[str(depth)], network[: depth + 1](x).mean((2, 3)))
        torch.testing.assert_close(found["output"], network(x))


def test_of_tokens_the_mean_is_taken_and_of_tuples_the_features():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 8)

        def forward(self, x):
            return self.inner(x), {"attention": x}

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Pair(), nn.Linear(8, 8)

        def forward(self, x):
            return self.second(self.first(x)[0]).amax(1)

    x, network = torch.randn(6, 5, 3), Two()
    found = features(network, ("first", "second"), x, batch=6)
    with torch.no_grad():
        tokens = network.first(x)[0]
        torch.testing.assert_close(found["first"], tokens.mean(1))
        torch.testing.assert_close(found["second"], network.second(tokens).mean(1))


def test_of_several_outputs_of_a_layer_the_one_with_a_row_for_each_example_is_read():
    class Block(nn.Module):
        """As in a transformer in a transformer: pixels of all patches of all examples, and patches."""

        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(2, 2), nn.Linear(8, 8)

        def forward(self, pixels, patches):
            pixels = self.inner(pixels)
            return pixels, self.outer(patches + pixels.reshape(patches.shape))

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x):
            pixels, patches = x.reshape(-1, 4, 2), x
            for part in self.blocks:
                pixels, patches = part(pixels, patches)
            return patches.amax(1)

    torch.manual_seed(0)
    network, x = Nested().eval(), torch.randn(7, 5, 8)
    found = features(network, "auto", x, batch=4)
    assert list(found) == ["blocks.0", "blocks.1", "blocks.2", "output"]
    with torch.no_grad():
        torch.testing.assert_close(found["blocks.0"], network.blocks[0](x.reshape(-1, 4, 2), x)[1].mean(1))


def test_a_last_layer_that_is_the_output_is_not_read_twice():
    network = nn.Sequential(block(3, 4), block(4, 4), block(4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert list(features(network, "auto", torch.randn(3, 3, 8, 8), batch=3)) == ["0", "1", "2"]


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize(("factor", "same"), [(1 + 0.5e-4, True), (1 + 1.5e-4, False)])
def test_an_output_that_differs_by_rounding_is_the_same(factor, same):
    names = list(features(nn.Sequential(nn.Linear(4, 4), Times(factor)), ("0",), 1 + torch.rand(3, 4), batch=3))
    assert names == (["0"] if same else ["0", "output"])


def test_a_network_without_layers_has_its_output_alone_also_for_one_example():
    assert list(features(nn.Flatten(), "auto", torch.randn(1, 4), batch=1)) == ["output"]


def test_layers_of_heads_come_after_those_of_the_encoder():
    root = nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 3)})
    for layers, in_heads in (("net.0", "head"), 1), (("net.0", "net.1"), 0), (("head",), 1):
        reader, x = LayerReader(root, layers, "net", [Head("head", "", 0, "same")]), torch.randn(3, 4)
        assert not reader.chosen
        assert reader.in_heads == 0
        with torch.no_grad():
            reader.choose(lambda x=x: root["net"](x), FeatureReader(root["net"]), 3, (4,), SingleProcess())
        assert reader.chosen
        assert reader.in_heads == in_heads


def test_the_channels_of_a_layer_are_those_of_its_own_weights_or_of_the_network_s_if_it_has_none(caplog):
    network = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Flatten())
    with caplog.at_level("INFO"):
        found = features(network, ("0", "1"), torch.randn(3, 3, 16), batch=3)
    assert caplog.messages == []  # though what is ambiguous of the output is announced
    assert {name: len(values.T) for name, values in found.items()} == {"0": 8, "1": 8, "output": 128}
    network = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Linear(16, 16), nn.Flatten())
    assert features(network, ("0",), torch.randn(3, 3, 16), batch=3)["0"].shape == (3, 8)


def test_what_comes_after_an_inner_layer_that_is_the_encoder_is_not_among_its_layers():
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    reader, x = LayerReader(network, "auto", "3"), torch.randn(3, 4)

    def forward():
        output = network[:4](x)
        network[4](output)
        return output

    with torch.no_grad():
        reader.choose(forward, FeatureReader(network), 3, (4,), SingleProcess())
    assert reader.names == ("0", "1", "2", "3")


def test_a_layer_may_return_what_an_encoder_may():
    class Frames(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, x):
            return x.reshape(len(x), *self.shape)

    x = torch.randn(3, 16)
    network = nn.Sequential(Frames(8, 2, 1, 1), Frames(16))
    torch.testing.assert_close(features(network, ("0",), x, batch=3)["0"], x.reshape(3, 8, 2).mean(2))
    with pytest.raises(ValueError, match="returns no features"):
        chosen(nn.Sequential(Frames(8, 2, 1, 1, 1), Frames(16)), ("0",), x)


def test_an_error_lists_twenty_names():
    with pytest.raises(ValueError, match=r"'18', '19'[.]$"):
        chosen(nn.Sequential(*(nn.Linear(4, 4) for _ in range(25))), ("a",), torch.randn(3, 4))


@torch.no_grad()
def test_a_layer_has_to_be_called_with_the_examples_of_each_batch():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    reader, read = chosen(network, ("0",), torch.randn(3, 4))
    with reader.attached(read) as layered:
        with pytest.raises(ValueError, match="The layer '0' was not called with the 5 examples of a batch"):
            layered(network[1](torch.randn(5, 4)), 5)
        network(torch.randn(2, 4))
        with pytest.raises(ValueError, match="The layer '0' was not called with the 5 examples of a batch"):
            layered(network[1](torch.randn(5, 4)), 5)
        network(torch.randn(5, 4))
        whole = layered(network[1](torch.randn(5, 4)), None)
    assert [part.shape for part in layered.split(whole.expand(2, 5, 7))] == [(2, 5, 4), (2, 5, 3)]


def test_names_come_in_the_order_of_calls_and_the_output_has_the_name_that_it_was_given():
    reader, _ = chosen(VisionTransformer(4), ("blocks.2", "blocks.0"), torch.randn(3, 3, 8, 8), output="backbone")
    assert reader.names == ("blocks.0", "blocks.2", "backbone")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("blocks.9", "is not the name of a module of VisionTransformer"),
        ("blocks.0.attn.out_proj", "is not called by the encoder"),
        ("pick", "returns no features"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused_with_those_that_can(name, why):
    class Picking(VisionTransformer):
        def __init__(self):
            super().__init__(2)
            self.pick = nn.Flatten(0)

        def forward(self, x):
            self.pick(x)
            return super().forward(x)

    Picking.__name__ = "VisionTransformer"
    with pytest.raises(ValueError, match=rf"`layers`: '{name}' {why}.*'blocks.0'"):
        chosen(Picking(), (name,), torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("layers", ["layer3", [], ["a", "a"], 3, [1]])
def test_other_values_are_refused(layers):
    with pytest.raises(ValueError, match=r"`layers` must be"):
        check_layers(layers)


def test_no_hook_stays_also_where_a_forward_fails():
    network = nn.Sequential(block(3, 4), block(4, 4), block(4, 4))
    reader, read = chosen(network, "auto", torch.randn(3, 3, 8, 8))
    assert hooks(network) == 0
    found = []

    def failing():
        with reader.attached(read):
            found.append(hooks(network))
            network(torch.randn(3, 7, 8, 8))

    with pytest.raises(RuntimeError):
        failing()
    assert found == [3]
    assert hooks(network) == 0


def test_a_head_that_cannot_be_run_is_left_out_where_nobody_has_named_it():
    root = nn.ModuleDict({"net": nn.Sequential(block(3, 4), block(4, 4), block(4, 4)), "head": nn.Linear(99, 3)})

    def names(layers):
        reader, x = (
            LayerReader(root.eval(), layers, "net", [Head("head", "", 0, "mean over space")]),
            torch.randn(3, 3, 8, 8),
        )
        with torch.no_grad():
            reader.choose(lambda: root["net"](x), FeatureReader(root["net"]), 3, (3, 8, 8), SingleProcess())
        return reader.names

    assert names("auto") == ("net.0", "net.1", "net.2")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        names(("head",))
    root["head"] = nn.Linear(4, 3)
    assert names("auto") == ("net.0", "net.1", "head", "net.2")
    assert names(("head",)) == ("head", "net")


def test_layers_within_compiled_modules_are_read_and_named_without_the_wrapper():
    network = nn.Sequential(nn.Sequential(block(3, 4), block(4, 4), block(4, 4)), nn.Flatten())
    network[0] = torch.compile(network[0], backend="eager")
    with torch.compiler.set_stance("force_eager"):
        reader, _ = chosen(network, "auto", torch.randn(3, 3, 8, 8))
    assert reader.names == ("0.0", "0.1", "0.2", "output")
