"""Which models reconstruct or classify, at the sizes where it changes."""

import pytest
import torch
from torch import nn

from tests.runtime.test_encoder_ranking import Of, first


@pytest.mark.parametrize(("width", "part"), [(4, ("down",)), (5, None)])
def test_vectors_are_reconstructed_from_at_most_half_their_width(width, part):
    model = Of(lambda m, x: m.up(m.down(x)), down=nn.Linear(8, width), up=nn.Linear(width, 8))
    assert first(lambda m, x: m.model(x).square().mean(), model=model) == ("model", part)


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_are_reconstructed_from_fewer_positions(stride):
    model = Of(
        lambda m, x: m.up(m.down(x)),
        down=nn.Conv2d(3, 8, stride, stride), up=nn.ConvTranspose2d(8, 3, stride, stride),
    )  # fmt: skip
    found = first(lambda m, x: m.model(x).square().mean(), torch.rand(6, 3, 8, 8), model=model)
    assert found == ("model", ("down",) if stride == 2 else None)


@pytest.mark.parametrize(("outputs", "encoder"), [(4, "model.net"), (5, "model")])
def test_a_last_layer_that_halves_the_features_for_the_loss_is_a_head(outputs, encoder):
    model = Of(lambda m, x: m.last(m.net(x)), net=nn.Sequential(nn.Linear(8, 8), nn.ReLU()), last=nn.Linear(8, outputs))
    assert first(lambda m, x: m.model(x).square().mean(), model=model) == (encoder, None)
