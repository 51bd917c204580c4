import pytest
import torch
from torch import nn

from synbench_lightning import LayerEncoder
from tests.runtime.test_layer_selection import VisionTransformer, block


def test_it_gives_the_pooled_features_of_the_layer_and_trains_what_comes_before():
    network = nn.Sequential(block(3, 4), block(4, 8), block(8, 8))
    x = torch.randn(5, 3, 8, 8)
    features = LayerEncoder(network, "1").eval()(x)
    torch.testing.assert_close(features, network[:2](x).mean((2, 3)))
    features.sum().backward()
    assert network[0][0].weight.grad is not None
    assert network[2][0].weight.grad is None
    assert not any(part._forward_hooks for part in network.modules())


def test_a_name_that_is_none_and_a_layer_that_is_not_called_are_refused():
    with pytest.raises(ValueError, match="`layer` must be the dotted name of a module of VisionTransformer, got 'b'"):
        LayerEncoder(VisionTransformer(2), "b")
    with pytest.raises(ValueError, match=r"`layer`: 'blocks.0.attn.out_proj' is not called by the encoder"):
        LayerEncoder(VisionTransformer(2), "blocks.0.attn.out_proj")(torch.randn(2, 3, 8, 8))
