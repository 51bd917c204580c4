"""Real images that scikit-learn ships, several label sets for each, and their random variations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TEST_SHARE = 1 / 3


@dataclass(frozen=True)
class Images:
    """Standardized images ``(N, C, 8, 8)`` and integer labels ``(N,)`` for each label set, split once and for all.

    The first label set is what supervised pretraining learns and what the linear probe's accuracy means where nothing
    else is said; the second is the coarser one of the regime ``coarse``.
    """

    train: Tensor
    test: Tensor
    train_labels: dict[str, Tensor]
    test_labels: dict[str, Tensor]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])


def load_images(name: str) -> Images:
    """``"digits"``: 1,797 scanned digits; ``"patches"``: 2,080 patches of two photographs."""
    images, labels = {"digits": _digits, "patches": _patches}[name]()
    first = next(iter(labels.values()))
    train, test = train_test_split(np.arange(len(images)), test_size=TEST_SHARE, stratify=first, random_state=0)
    mean, std = images[train].mean(), images[train].std()
    images = ((images - mean) / std).float()
    split = [{key: value[part] for key, value in labels.items()} for part in (train, test)]
    return Images(images[train], images[test], *split)


def _digits() -> tuple[Tensor, dict[str, Tensor]]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float64)[:, None] / 16
    digit = torch.tensor(digits.target)
    labels = {
        "digit": digit,
        "parity": digit % 2,
        "size": (digit >= 5).long(),
        "loops": torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 2, 1])[digit],
        "ink": _above_median(images.mean((1, 2, 3))),
        "slant": _above_median(_slant(images)),
    }
    return images, labels


def _patches() -> tuple[Tensor, dict[str, Tensor]]:
    """Patches that do not overlap, from photographs at half their size; a region is a sixth of a photograph."""
    found, regions = [], []
    for index, photograph in enumerate(load_sample_images().images):
        pixels = torch.tensor(photograph, dtype=torch.float64).permute(2, 0, 1)[None] / 255
        small = F.avg_pool2d(pixels, 2)[0]
        cut = small.unfold(1, 8, 8).unfold(2, 8, 8)  # (C, rows, columns, 8, 8)
        rows, columns = cut.shape[1:3]
        row, column = torch.meshgrid(
            torch.arange(rows) * 2 // rows, torch.arange(columns) * 3 // columns, indexing="ij"
        )
        regions.append((6 * index + 3 * row + column).flatten())
        found.append(cut.permute(1, 2, 0, 3, 4).flatten(0, 1))
    images, region = torch.cat(found), torch.cat(regions)
    vertical = images.diff(dim=2).square().mean((1, 2, 3))
    horizontal = images.diff(dim=3).square().mean((1, 2, 3))
    labels = {
        "region": region,
        "photograph": region // 6,
        "row": region % 6 // 3,
        "column": region % 3,
        "brightness": _above_median(images.mean((1, 2, 3))),
        "edges": _above_median((vertical + 1e-4).log() - (horizontal + 1e-4).log()),
    }
    return images, labels


def _above_median(values: Tensor) -> Tensor:
    return (values > values.median()).long()


def _slant(images: Tensor) -> Tensor:
    """Covariance of row and column under the ink."""
    ink = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    place = torch.arange(8.0, dtype=torch.float64)
    row, column = (ink.sum(2) @ place), (ink.sum(1) @ place)
    return torch.einsum("nij,i,j->n", ink, place, place) - row * column


def augment(images: Tensor) -> Tensor:
    """Slightly rotated, zoomed, shifted, partly erased, noisy variations of standardized images."""
    n, size = len(images), images.shape[-1]
    angle, zoom = math.radians(15) * _uniform(n), 1 + 0.15 * _uniform(n)
    shift = 0.25 * _uniform(n, 2)  # the image spans 2 units: up to one pixel
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    centre = torch.randint(0, size, (n, 2, 1))
    row, column = ((torch.arange(size) - centre).abs() <= 1).unbind(1)
    erased = moved.masked_fill((row[:, :, None] & column[:, None, :])[:, None], float(images.min()))
    return erased + 0.25 * torch.randn_like(erased)


def _uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1
