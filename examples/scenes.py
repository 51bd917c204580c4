"""Small pictures with a shape, a colour and a texture, for `pretrain_task_robust.py`.

A window of one of scikit-learn's two photographs, of 16 x 16 pixels, with a shape laid over it that is brighter, tinted
and striped. Shape, tint and direction of the stripes are drawn independently: three downstream tasks that ask for
different things. The stripes have a thousandth of the variance of the pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SIZE = 16
FINE = 4 * SIZE
"""Shapes are drawn this fine and averaged, so that their edges are smooth."""
SHAPES = ("disc", "square", "triangle", "cross", "ring")
TINTS = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]).float()
TASKS = ("shape", "colour", "texture")


class Scenes(NamedTuple):
    """Pictures ``(N, 3, 16, 16)`` in about [0, 2], and for each task their labels ``(N,)``."""

    images: Tensor
    labels: dict[str, Tensor]


def make_scenes(number: int, seed: int, stripes: float = 0.1, jitter: float = 1.0) -> Scenes:
    """Pictures with stripes of an amplitude, and shapes that are off the middle by some pixels at most."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def choose(among: int) -> Tensor:
        return torch.randint(among, (number,), generator=generator)

    shape, hue, direction = choose(len(SHAPES)), choose(len(TINTS)), choose(4)
    mask = covered(shape, draw(number) + 4.5, SIZE / 2 + jitter * (2 * draw(number, 2) - 1))
    row, column = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    along = torch.stack([row, column, (row + column) / 2**0.5, (row - column) / 2**0.5])[direction]
    bright = 0.25 + stripes * torch.sin(2 * math.pi * along / 3)
    over = bright[:, None] + 0.1 * TINTS[hue][:, :, None, None]
    images = 0.7 * windows(choose(2), draw(number, 2)) + mask[:, None] * over
    return Scenes(images, dict(zip(TASKS, (shape, hue, direction), strict=True)))


def windows(photo: Tensor, place: Tensor) -> Tensor:
    """Windows ``(N, 3, 16, 16)`` of the two photographs, at half of their resolution."""
    photos = torch.stack([torch.tensor(one).permute(2, 0, 1) for one in load_sample_images().images]).float() / 255
    photos = F.avg_pool2d(photos, 2)
    top, left = (place * (torch.tensor(photos.shape[2:]) - SIZE)).long().unbind(1)
    steps = torch.arange(SIZE)
    rows, columns = top[:, None, None] + steps[:, None], left[:, None, None] + steps
    return photos[photo[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def covered(shape: Tensor, radius: Tensor, centre: Tensor) -> Tensor:
    """The share of each pixel ``(N, 16, 16)`` that a shape covers."""
    fine = (torch.arange(FINE) + 0.5) * SIZE / FINE
    y = (fine[:, None] - centre[:, 0, None, None]) / radius[:, None, None]
    x = (fine - centre[:, 1, None, None]) / radius[:, None, None]
    away, wide, high = (y.square() + x.square()).sqrt(), x.abs(), y.abs()
    inside = torch.stack(
        [
            (away < 1).expand(y.shape[0], FINE, FINE),
            torch.maximum(wide, high) < 0.89,
            (y < 0.8) & (wide < 0.55 * (y + 1.2)),
            ((wide < 0.45) & (high < 1.1)) | ((high < 0.45) & (wide < 1.1)),
            (away < 1.1) & (away > 0.55),
        ]
    )
    return F.avg_pool2d(inside[shape, torch.arange(len(shape))].float(), FINE // SIZE)
