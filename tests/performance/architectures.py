"""Untrained encoders of the usual sizes, to measure what a probe costs beside its forwards."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def resnet50() -> nn.Module:
    """A residual network of 50 layers, 2048 features."""
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            layers.append(_Bottleneck(channels, width, 2 if block == 0 and stage > 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def resnet18() -> nn.Module:
    """A residual network of 18 layers, with the names that it has elsewhere; 512 features."""
    stages = [
        nn.Sequential(_Basic(width // 2 if stage else width, width, 1 + bool(stage)), _Basic(width, width, 1))
        for stage, width in enumerate((64, 128, 256, 512))
    ]
    named = [("conv1", _conv(3, 64, 7, 2)), ("relu", nn.ReLU()), ("maxpool", nn.MaxPool2d(3, 2, 1))]
    named += [(f"layer{index}", stage) for index, stage in enumerate(stages, 1)]
    return nn.Sequential(OrderedDict([*named, ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())])).eval()


def vit_small(image: int, patch: int) -> nn.Module:
    """A vision transformer of 12 layers, 384 features: the mean token."""
    return _VisionTransformer(image, patch, width=384, depth=12, heads=6).eval()


class _Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv(inputs, width, 3, stride), nn.ReLU(), _conv(width, width, 3, 1))
        self.shortcut = _conv(inputs, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            _conv(inputs, width, 1, 1),
            nn.ReLU(),
            _conv(width, width, 3, stride),
            nn.ReLU(),
            _conv(width, outputs, 1, 1),
        )
        changes = inputs != outputs or stride != 1
        self.shortcut = _conv(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class _VisionTransformer(nn.Module):
    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.position)
        return tokens.mean(1)
