"""Ten ways to pretrain an encoder: eight that should work, and two that go wrong."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from validity.inputs import Images

BATCH = 128


class Batch(NamedTuple):
    """Images, and labels of the first and of the second label set."""

    images: Tensor
    labels: Tensor
    coarse: Tensor


class Regime(nn.Module):
    """A loss with its heads; a subclass says what it makes of an encoder and a batch."""

    weight_decay = 1e-4
    batch_size = BATCH

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__()
        self.augment = images.augment
        self.source = Batch(images.train, *list(images.train_labels.values())[:2])

    def batch(self) -> Batch:
        chosen = torch.randint(len(self.source.images), (self.batch_size,))
        return Batch(*(part[chosen] for part in self.source))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError


class Supervised(Regime):
    """All labels of the first set."""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Linear(dim, len(self.source.labels.unique()))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.head(encoder(self.augment(batch.images))), batch.labels)


class Coarse(Regime):
    """Two classes only: parity of the digit, or which photograph."""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Linear(dim, len(self.source.coarse.unique()))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.head(encoder(self.augment(batch.images))), batch.coarse)


class OverTraining(Supervised):
    """Supervised on 256 images, half of their labels at random, without augmentation: it ends in memory."""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        chosen = torch.randperm(len(self.source.images))[:256]
        few = Batch(*(part[chosen] for part in self.source))
        wrong = torch.randint(self.head.out_features, few.labels.shape)
        self.source = few._replace(labels=torch.where(torch.rand(len(wrong)) < 0.5, wrong, few.labels))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.head(encoder(batch.images)), batch.labels)


class SimCLR(Regime):
    """Find the other view of an image among those of the others."""

    temperature = 0.3

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 32))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        views = torch.cat([self.augment(batch.images), self.augment(batch.images)])
        z = F.normalize(self.head(encoder(views)), dim=1)
        similarity = (z @ z.T / self.temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(z)).roll(len(z) // 2)
        return F.cross_entropy(similarity, partner)


class VICReg(Regime):
    """Two views alike, with terms that keep variance and take covariance out."""

    invariance, variance, covariance = 25.0, 25.0, 1.0
    """Weights of the three terms."""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 128))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        views = self.head(encoder(torch.cat([self.augment(batch.images), self.augment(batch.images)])))
        first, second = views.chunk(2)
        loss = self.invariance * F.mse_loss(first, second)
        for z in (first, second):
            centred = z - z.mean(0)
            covariance = centred.T @ centred / (len(z) - 1)
            variance = covariance.diagonal()
            hinge = F.relu(1 - (variance + 1e-4).sqrt()).mean()
            others = (covariance.square().sum() - variance.square().sum()) / z.shape[1]
            loss = loss + self.variance / 2 * hinge + self.covariance * others
        return loss


class Collapse(Regime):
    """Two views alike and nothing else: the features tend to one and the same vector."""

    weight_decay = 1e-2

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        first, second = encoder(torch.cat([self.augment(batch.images), self.augment(batch.images)])).chunk(2)
        return 1 - F.cosine_similarity(first, second).mean()


class Denoising(Regime):
    """Reconstruct an image from a noisy version of it."""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, images.train[0].numel()))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        noisy = batch.images + 0.7 * torch.randn_like(batch.images)
        return F.mse_loss(self.head(encoder(noisy)), batch.images.flatten(1))


class Masked(Denoising):
    """Reconstruct the hidden half of an image's 4 x 4 patches."""

    hidden = 0.5

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        shown = (torch.rand(len(batch.images), 1, 4, 4) < 1 - self.hidden).float()
        shown = F.interpolate(shown, size=batch.images.shape[-2:])
        error = (self.head(encoder(batch.images * shown)).view_as(batch.images) - batch.images).square()
        loss: Tensor = (error * (1 - shown)).sum() / (1 - shown).expand_as(error).sum()
        return loss


class Rotation(Regime):
    """By how many quarter turns was the image rotated?"""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.head = nn.Linear(dim, 4)

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        views, turns = self.augment(batch.images), torch.arange(BATCH) % 4
        for turn in range(1, 4):
            views[turn::4] = views[turn::4].rot90(turn, (2, 3))
        return F.cross_entropy(self.head(encoder(views)), turns)


class Jigsaw(Regime):
    """In which of the 24 orders are the quadrants?"""

    def __init__(self, images: Images, dim: int) -> None:
        super().__init__(images, dim)
        self.orders = torch.tensor(list(permutations(range(4))))
        self.head = nn.Linear(dim, len(self.orders))

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        order = torch.randint(len(self.orders), (BATCH,))
        half = batch.images.shape[-1] // 2
        quadrants = self.augment(batch.images).unfold(2, half, half).unfold(3, half, half).flatten(2, 3)  # (N, C, 4, .)
        mixed = quadrants[torch.arange(BATCH)[:, None], :, self.orders[order]]  # (N, 4, C, 4, 4)
        top, bottom = (torch.cat([mixed[:, a], mixed[:, a + 1]], -1) for a in (0, 2))
        return F.cross_entropy(self.head(encoder(torch.cat([top, bottom], -2))), order)


REGIMES: dict[str, type[Regime]] = {
    "supervised": Supervised,
    "simclr": SimCLR,
    "denoising": Denoising,
    "rotation": Rotation,
    "collapse": Collapse,
    "coarse": Coarse,
    "vicreg": VICReg,
    "masked": Masked,
    "jigsaw": Jigsaw,
    "over-training": OverTraining,
}

DEVELOPMENT = ("supervised", "simclr", "denoising", "rotation", "collapse")
"""The half on which proxies were searched: on digits first, then, for the information about inputs, on digits and
patches. Chosen before any result of this study was seen. The kinds of pretraining of which first results were known
(supervised, contrastive, autoencoder) are all in it."""

HELD_OUT = ("coarse", "vicreg", "masked", "jigsaw", "over-training")
"""The half on which what was found was confirmed, once for each proxy. On letters both halves were."""
