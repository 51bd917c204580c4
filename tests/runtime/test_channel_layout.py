"""Where the channels are in the outputs of networks whose layout is known."""

from enum import Enum

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.channel_layout import Widths, channel_axis

IMAGE = (3, 224, 224)


@pytest.mark.parametrize(
    ("shape", "input_shape", "layers", "axis", "other"),
    [
        ((8, 512, 7, 7), IMAGE, (64, 128, 256, 512), 1, None),  # ResNet
        ((8, 7, 7, 768), IMAGE, (96, 192, 384, 768), 3, 1),  # Swin
        ((8, 197, 768), IMAGE, (768, 3072, 768), 2, None),  # ViT
        ((8, 768, 197), IMAGE, (768, 3072, 768), 1, 2),  # the same, transposed
        ((8, 64, 50), (1, 16_000), (64,), 1, 2),  # waveforms
        ((8, 512, 1, 1), IMAGE, (512,), 1, None),  # pooled
        ((8, 1, 1, 512), IMAGE, (), 3, None),
        ((8, 1, 1, 1), IMAGE, (), 1, None),
        ((8, 1, 1), IMAGE, (), 2, None),
        ((8, 96, 7, 7), IMAGE, (), 1, None),  # positions are square
        ((8, 32, 10, 20), (1, 80, 160), (), 1, None),  # positions have the aspect of the input
        ((8, 10, 20, 32), (1, 80, 160), (), 3, 1),
        ((8, 10, 20, 32), (80, 160, 1), (), 3, 1),
        ((8, 32, 10, 19), (1, 80, 160), (), 1, None),  # or nearly
        ((8, 32, 10, 17), (1, 80, 160), (), 1, 3),  # or not: the larger axis
        ((8, 10, 17, 40), (1, 80, 160), (), 3, 1),
        ((8, 50, 512), IMAGE, (), 2, None),  # 49 patches and a class token
        ((8, 54, 512), IMAGE, (), 2, None),  # four registers more
        ((8, 55, 512), IMAGE, (), 2, 1),  # too many to be tokens of 49 patches
        ((8, 512, 50), IMAGE, (), 1, 2),
        ((8, 64, 64), (), (64,), 2, 1),  # either
        ((8, 32, 64), (), (64, 32), 1, 2),  # the last layer's width
        ((8, 32, 64), (), (32, 64), 2, 1),
        ((8, 3, 10, 64), (3, 100), (), 3, 1),  # tokens of each channel
        ((8, 3, 10, 64), (3, 100), (3, 64), 3, 1),
        ((8, 16, 64, 7, 7), (16, 3, 56, 56), (64,), 2, 1),  # frames, each by itself
        ((8, 64, 8, 7, 7), (3, 16, 56, 56), (64,), 1, None),  # videos
        ((8, 8, 7, 7, 64), (3, 16, 56, 56), (64,), 4, 1),
        ((8, 64, 8, 7, 9), (3, 16, 56, 72), (), 1, None),  # frames need not be square
        ((8, 32, 20, 10), (1, 160, 80), (), 1, None),  # upright images
        ((8, 32, 20, 10), (1, 220, 100), (), 1, None),  # strides differ by a tenth
        ((8, 64, 10, 8), (16, 20, 16), (), 1, None),  # as many channels as columns
        ((8, 1024, 2048), (3, 32, 32), (), 2, None),  # each pixel is a token
        ((8, 2, 512), (3, 32, 32), (), 2, None),  # the image is one, with a class token
        ((8, 96, 64), (3, 96), (), 2, None),  # each step of a series is a token
        ((8, 3, 64), (), (), 2, 1),  # nothing to compare with
        ((8, 3, 10, 64), (3, 100), (64, 3), 1, 3),  # as many features as channels of the input
        ((8, 32, 10, 64), (), (32, 64, 8), 3, 1),
        ((8, 64, 64), (), (), 2, 1),
        ((8, 40, 64, 40), (), (), 1, 3),  # of the same size
    ],
)
def test_channels_are_found(shape, input_shape, layers, axis, other):
    assert channel_axis(shape, input_shape, Widths(layers, None)) == (axis, other)


def test_a_declared_format_decides_if_it_has_as_many_axes():
    assert channel_axis((8, 7, 9, 96), IMAGE, Widths((7,), "NHWC")) == (3, None)
    assert channel_axis((8, 96, 49), IMAGE, Widths((), "NCL")) == (1, None)
    assert channel_axis((8, 50, 512), IMAGE, Widths((), "NHWC")) == (2, None)


class Format(Enum):
    LAST = "nhwc"


def declaring(value):
    module = nn.Conv2d(3, 8, 3)
    module.output_fmt = value
    return module


@pytest.mark.parametrize(
    ("module", "declared"),
    [
        (declaring("NHWC"), "NHWC"), (declaring(Format.LAST), "NHWC"), (nn.Sequential(declaring("NCL")), "NCL"),
        (nn.Sequential(declaring("NCL"), nn.ReLU()), None), (declaring("CNHW"), None), (declaring("NHW"), None),
        (nn.Identity(), None), (None, None),
    ],
)  # fmt: skip
def test_a_format_is_declared_by_a_module_or_its_only_child(module, declared):
    assert Widths.of(module).declared == declared


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)), (8, 16, 8)),
        (nn.LSTM(4, 6), (6,)), (nn.LSTM(4, 6, bidirectional=True), (12,)),
        (nn.LSTM(4, 6, proj_size=5, bidirectional=True), (10,)), (nn.Embedding(100, 12), (12,)),
        (nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d()), (8,)), (nn.ReLU(), ()), (None, ()),
        (nn.ParameterList([torch.ones(7), torch.ones(2, 3)]), (7,)),
    ],
)  # fmt: skip
def test_widths_are_those_of_the_layers_in_their_order(module, layers):
    found = Widths.of(module)
    assert found.layers == layers
    assert found.largest == max(layers, default=0)
