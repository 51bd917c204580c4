"""Pretrain a small encoder on scanned digits without labels, and let the SynBench score choose the checkpoint.

The run is plain contrastive learning (SimCLR) in PyTorch Lightning on the 1,797 images that scikit-learn ships, about
one minute on two CPU cores, nothing to download. What one learns from it:

- `SynBenchCallback` needs one line: it finds the encoder and the shape of its input by itself;
- its score is monitored like any other metric, by `ModelCheckpoint` and, probe by probe, by `SynBenchEarlyStopping`;
- what such a choice is worth: afterwards, and only then, labels are used to measure every checkpoint with a linear
  probe, beside the score that was known without them.

    pip install 'synbench-lightning[examples]'
    python examples/pretrain_digits.py
"""

from __future__ import annotations

import argparse
import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset, RandomSampler

from synbench_lightning import SynBenchCallback, SynBenchEarlyStopping

try:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from synbench_lightning.plots import history_figure
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

Batch = tuple[list[Tensor], Tensor]
"""A batch: two views ``(N, 1, 8, 8)`` of the same images, and their labels ``(N,)``, which pretraining ignores."""

MEAN, STD = 0.305, 0.376
"""Of the pixels in [0, 1]. The encoder sees standardized images, as it sees standard normal examples in a probe."""


class TwoViews(Dataset[Batch]):
    """Every image as two random variations of itself."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[tuple[list[Tensor], Tensor]]:
        # The DataLoader calls this one, where it exists, with the indices of a whole batch: 30 times as fast for tiny
        # images as a `__getitem__` for each.
        images = self.images[indices]
        views = zip(augment(images), augment(images), strict=True)
        return [([first, second], label) for (first, second), label in zip(views, self.labels[indices], strict=True)]


def augment(images: Tensor) -> Tensor:
    """Variations of images ``(N, 1, 8, 8)`` in [0, 1] that leave the digit readable; standardized."""
    n = len(images)
    angle = math.radians(15) * uniform(n)
    zoom = 1 + 0.15 * uniform(n)
    shift = 0.25 * uniform(n, 2)  # the image spans 2 units: up to one pixel
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    # Erase a square of 3 x 3 pixels, part of which may lie outside.
    centre = torch.randint(0, 8, (n, 2, 1))
    row, column = ((torch.arange(8) - centre).abs() <= 1).unbind(1)
    erased = moved.masked_fill((row[:, :, None] & column[:, None, :])[:, None], 0.0)
    return standardize(erased + 0.1 * torch.randn_like(erased))


def uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1


def standardize(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


class SimCLR(LightningModule):
    """An encoder whose features of two views of an image resemble each other more than those of other images."""

    def __init__(self, width: int = 32, temperature: float = 0.5, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        # The last map is flattened, not averaged: features that have lost where something is in the image cannot tell
        # left from right, and the tasks `cos_1` and `cos_2` of the probe would stay at 0.
        self.encoder = nn.Sequential(
            block(1, width, stride=1),
            block(width, 2 * width, stride=2),
            block(2 * width, 2 * width, stride=2),
            nn.Flatten(),
        )
        dim = 2 * width * 2 * 2
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 64))
        self.temperature, self.learning_rate = temperature, learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views, _ = batch
        loss = nt_xent(self.head(self.encoder(torch.cat(views))), self.temperature)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding the other view of each image among all others; ``(2N, D)``, the views one after another."""
    z = F.normalize(projections, dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z)).roll(len(z) // 2)
    return F.cross_entropy(similarity, partner)
