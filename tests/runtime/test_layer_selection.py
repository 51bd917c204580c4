"""Which modules are layers, from the module tree and the order of calls."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.collectives import SingleProcess
from synbench_lightning.runtime.features import FeatureReader
from synbench_lightning.runtime.layer_reading import LayerReader
from synbench_lightning.runtime.layer_selection import CalledModule, select_layers


def layers(module, x):
    """Those that are found in a real call, without the encoder's own output."""
    reader = LayerReader(module.eval(), "auto")
    with torch.no_grad():
        reader.choose(lambda: module(x), FeatureReader(module), len(x), x.shape[1:], SingleProcess())
    return [name for name in reader.names if name != "output"]


def block(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class ResNet(nn.Module):
    """As those of torchvision and timm are built."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU()
        for stage, width in enumerate((8, 16, 32, 64), 1):
            inputs = 8 if stage == 1 else width // 2
            setattr(self, f"layer{stage}", nn.Sequential(block(inputs, width, 2), block(width, width)))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 1000)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.pool(x).flatten(1))


class ConvNeXt(nn.Module):
    """A stem, stages in one container, and a head with a norm."""

    def __init__(self):
        super().__init__()
        self.stem = block(3, 8, 4)
        self.stages = nn.Sequential(block(8, 8), block(8, 16), block(16, 32))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, x):
        return self.head(self.stages(self.stem(x)))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        normed = self.norm(x)
        x = x + self.attn(normed, normed, normed)[0]
        return x + self.mlp(x)


class VisionTransformer(nn.Module):
    def __init__(self, depth, width=16):
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.Flatten(2))
        self.blocks, self.norm = nn.ModuleList(Attention(width) for _ in range(depth)), nn.LayerNorm(width)

    def forward(self, x):
        x = self.patch_embed(x).mT
        for part in self.blocks:
            x = part(x)
        return self.norm(x)[:, 0]


class Text(nn.Module):
    """Most weights are in the table of embeddings; a pooler comes behind."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(5000, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4)
        self.pooler = nn.Linear(16, 16)

    def forward(self, tokens):
        return self.pooler(self.encoder(self.embeddings(tokens))[:, 0])


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class Contrastive(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(block(3, 8), block(8, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projector = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, x):
        return self.projector(self.backbone(x))


IMAGES = torch.randn(3, 3, 32, 32)


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (ResNet(), IMAGES, [f"layer{stage}" for stage in range(1, 5)]),
        (ConvNeXt(), IMAGES, [f"stages.{stage}" for stage in range(3)]),
        (VisionTransformer(5), IMAGES, [f"blocks.{index}" for index in range(5)]),
        (Wrapper(VisionTransformer(4)), IMAGES, [f"model.blocks.{index}" for index in range(4)]),
        (Text(), torch.arange(15).reshape(3, 5), [f"encoder.layers.{index}" for index in range(4)]),
        (nn.Sequential(*(block(3, 3) for _ in range(4)), nn.Flatten()), IMAGES, ["0", "1", "2", "3"]),
        (nn.Sequential(*block(3, 8), nn.MaxPool2d(2), *block(8, 8), *block(8, 4)), IMAGES, ["2", "6", "9"]),
        (MLP(), torch.randn(3, 12), ["fc1", "fc2", "fc3"]),
        (Contrastive(), IMAGES, ["backbone.0", "backbone.1", "backbone.2"]),
        (nn.Flatten(), IMAGES, []),
        (nn.LSTM(4, 8, batch_first=True), torch.randn(3, 5, 4), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_layers_are_the_stages_or_blocks_in_the_order_of_their_calls(module, x, expected):
    assert layers(module, x) == expected


def test_of_many_blocks_twelve_are_read_that_are_spread_over_the_depth():
    found = layers(VisionTransformer(40), IMAGES)
    assert found[0] == "blocks.0"
    assert found[-1] == "blocks.39"
    indices = [int(name.split(".")[1]) for name in found]
    assert len(indices) == 12
    assert max(b - a for a, b in pairwise(indices)) <= 4


def test_the_order_is_that_of_the_calls_and_not_of_the_attributes():
    class Backwards(nn.Sequential):
        def forward(self, x):
            for part in reversed(self):
                x = part(x)
            return x

    assert layers(Backwards(*(block(3, 3) for _ in range(3))), IMAGES) == ["2", "1", "0"]


def test_a_block_without_features_of_the_examples_is_no_layer():
    shapes = [(2, 8, 4, 4), None, (2, 8, 4, 4), (2, 8, 4, 4)]
    calls = [CalledModule(f"net.{n}", "Block", 10, shape) for n, shape in enumerate(shapes)]
    assert select_layers([*calls, CalledModule("net", "Net", 40, (2, 8))]) == ("net.0", "net.2", "net.3")
