"""The architectures: two small ones for images of 8 x 8, a residual network for larger ones, and deeper ones whose
layers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

DIM = 48
DIMENSIONS = {
    "conv": DIM, "conv-dropout": DIM, "transformer": DIM, "resnet": 160, "cnn": 128, "conv-6": DIM,
    "transformer-6": DIM, "residual-6": 96,
}  # fmt: skip
LAYERS = {
    "conv-6": tuple(map(str, range(6))),
    "transformer-6": (*(f"blocks.{index}" for index in range(6)), "norm"),
    "residual-6": tuple(map(str, range(1, 7))),
}
"""The layers that the study of layers reads, in the order in which they are called."""


def build_encoder(name: str, channels: int) -> nn.Module:
    """An encoder with random weights.

    ``"conv"`` (BatchNorm, mean over space) and ``"transformer"`` (LayerNorm, mean over tokens; images of 8 x 8) have
    less than 40,000 weights and 48 features, ``"conv-dropout"`` is ``"conv"`` with dropout after each block; ``"cnn"``
    has 93,000 and 128, ``"resnet"`` a million weights and 160 features.
    ``"conv-6"`` and ``"transformer-6"`` have six blocks of 48 features each, ``"residual-6"`` six of 24, 24, 48, 48, 96
    and 96.
    """
    makers: dict[str, Callable[[int], nn.Module]] = {
        "conv": _conv,
        "conv-dropout": _conv_dropout,
        "transformer": Transformer,
        "resnet": _resnet,
        "cnn": _cnn,
        "conv-6": _equal_conv,
        "transformer-6": partial(Transformer, blocks=6),
        "residual-6": _unequal,
    }
    return makers[name](channels)


def _resnet(channels: int) -> nn.Sequential:
    widths = [(40, 40, 1), (40, 40, 1), (40, 80, 2), (80, 80, 1), (80, 160, 2), (160, 160, 1)]
    stem = nn.Sequential(nn.Conv2d(channels, 40, 3, 1, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU())
    return nn.Sequential(stem, *(Residual(*width) for width in widths), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _unequal(channels: int) -> nn.Sequential:
    widths = [(24, 24, 1), (24, 24, 1), (24, 48, 1), (48, 48, 1), (48, 96, 2), (96, 96, 1)]
    stem = nn.Sequential(nn.Conv2d(channels, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
    return nn.Sequential(stem, *(Residual(*width) for width in widths), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Residual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        same = stride == 1 and channels == width
        self.around = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.around(images) + self.inner(images))


def conv_of_width(channels: int, size: int, width: int) -> nn.Sequential:
    """Three convolutional blocks that end in so many features, for images of so many pixels a side; ``"conv"`` for
    8 and 48."""
    first, last = (1, 1) if size < 16 else (2, 2)
    return _blocks([(channels, width // 3, first), (width // 3, 2 * width // 3, 2), (2 * width // 3, width, last)])


def _cnn(channels: int) -> nn.Sequential:
    return _blocks([(channels, 32, 2), (32, 64, 2), (64, 128, 1)])


def _conv(channels: int) -> nn.Sequential:
    return _blocks([(channels, 16, 1), (16, 32, 2), (32, DIM, 1)])


def _conv_dropout(channels: int) -> nn.Sequential:
    """With dropout of values after each block, as networks of text have it."""
    *blocks, pooling, flat = _conv(channels).children()
    return nn.Sequential(*(nn.Sequential(block, nn.Dropout(0.1)) for block in blocks), pooling, flat)


def _equal_conv(channels: int) -> nn.Sequential:
    strides = (2, 1, 1, 2, 1, 1)
    return _blocks([(DIM if index else channels, DIM, stride) for index, stride in enumerate(strides)])


def _blocks(widths: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b, stride in widths
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Transformer(nn.Module):
    """Patches of 2 x 2 pixels, learned positions, blocks that normalise first."""

    def __init__(self, channels: int, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, DIM, 2, 2)
        self.position = nn.Parameter(0.5 * torch.randn(1, 16, DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.position
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens).mean(1)
        return features


class Block(nn.Module):
    def __init__(self, heads: int = 4, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_mlp = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        result: Tensor = tokens + self.mlp(self.before_mlp(tokens))
        return result
