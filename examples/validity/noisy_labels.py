"""Labels some of which are wrong: pretraining on them, and examples that are kept out of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from validity.inputs import Images
from validity.regimes import Supervised

HELD_OUT = 300


class NoisyLabels(Supervised):
    """Supervised on all images, with a fraction of their labels replaced at random (by a right one now and then)."""

    def __init__(self, images: Images, dim: int, wrong: float = 0.4) -> None:
        super().__init__(images, dim)
        self.source = self.source._replace(labels=with_wrong(self.source.labels, wrong))


def with_wrong(labels: Tensor, fraction: float) -> Tensor:
    """A fraction of them, in the mean, replaced at random."""
    classes = labels.unique()
    random = classes[torch.randint(len(classes), labels.shape)]
    return torch.where(torch.rand(labels.shape) < fraction, random, labels)


def held_out(images: Images, number: int = HELD_OUT) -> tuple[Images, Tensor, Tensor]:
    """The images to train on without so many of them, and those with their labels of the first label set.

    They are the last of an order that does not depend on the number.
    """
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(6))
    kept, out = order[:-number], order[-number:]
    labels = {name: values[kept] for name, values in images.train_labels.items()}
    first = next(iter(images.train_labels.values()))
    return replace(images, train=images.train[kept], train_labels=labels), images.train[out], first[out]
