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


@pytest.mark.parametrize(("encoder", "layer"), [(nn.Flatten(), ""), (nn.Flatten(), 3), (print, "a")])
def test_other_arguments_are_refused(encoder, layer):
    with pytest.raises(ValueError, match=r"`(layer|encoder)` must be"):
        LayerEncoder(encoder, layer)


def test_the_mean_is_taken_over_the_tokens_that_the_mask_of_the_call_leaves():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, ids, attention_mask=None):
            return self.embedding(ids)[:, 0]

    network, ids = Text(), torch.arange(6).reshape(2, 3)
    vectors = network.embedding(ids)
    torch.testing.assert_close(LayerEncoder(network, "embedding")(ids), vectors.mean(1))
    found = LayerEncoder(network, "embedding")(ids, attention_mask=torch.tensor([[1, 1, 0], [1, 0, 0]]))
    torch.testing.assert_close(found, torch.stack([vectors[0, :2].mean(0), vectors[1, 0]]))


def test_an_axis_that_is_chosen_is_not_announced(caplog):
    with caplog.at_level("INFO"):
        LayerEncoder(nn.Sequential(nn.Identity(), nn.Flatten()), "0")(torch.rand(4, 5, 6))
    assert caplog.messages == []


def test_the_shape_of_the_input_tells_where_the_channels_of_a_layer_are():
    class Patches(nn.Module):
        """Averages of patches in six channels, which come last."""

        def forward(self, x):
            return nn.functional.avg_pool2d(x, 8).movedim(1, -1) * torch.arange(6.0)

    network, x = nn.Sequential(Patches(), nn.Flatten()), torch.rand(4, 1, 80, 160)
    found = LayerEncoder(network, "0")(x)
    torch.testing.assert_close(found, x.mean((1, 2, 3))[:, None] * torch.arange(6.0))
