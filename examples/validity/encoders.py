"""The two small architectures: from images ``(N, C, 8, 8)`` to features ``(N, 48)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIM = 48


def build_encoder(name: str, channels: int) -> nn.Module:
    """``"conv"`` (BatchNorm, mean over space) or ``"transformer"`` (LayerNorm, mean over tokens); < 40,000 weights."""
    return {"conv": _conv, "transformer": Transformer}[name](channels)


def _conv(channels: int) -> nn.Sequential:
    widths = [(channels, 16, 1), (16, 32, 2), (32, DIM, 1)]
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b, stride in widths
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Transformer(nn.Module):
    """Patches of 2 x 2 pixels, learned positions, two blocks that normalise first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, DIM, 2, 2)
        self.position = nn.Parameter(0.5 * torch.randn(1, 16, DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.position
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens).mean(1)
        return features


class Block(nn.Module):
    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        result: Tensor = tokens + self.mlp(self.before_mlp(tokens))
        return result
