"""The settings of a sweep: random search over what a user would vary, for four methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from validity.inputs import Images
from validity.noisy_labels import NoisyLabels
from validity.regimes import Batch, Masked, Regime, SimCLR, VICReg

WIDTH = 48
WIDTHS = (12, 24, 48, 72)
"""Of the sweep in which the width varies too."""
BATCH_SIZES = (32, 64, 128, 256)
SWEEPS = ("one width", "any width", "one augmentation")
"""What varies: all but the width, all, or all but the width and the strength of augmentation, which is 1."""


class Setting(NamedTuple):
    """What a run of the sweep is made with; the last five belong to one method each, and are NaN for the others."""

    method: str
    number: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    strength: float
    width: int
    temperature: float = np.nan
    invariance: float = np.nan
    covariance: float = np.nan
    hidden: float = np.nan
    wrong: float = np.nan


class MaskedViews(Masked):
    """Masked pretraining with augmented images."""

    def loss(self, encoder: nn.Module, batch: Batch) -> Tensor:
        return super().loss(encoder, batch._replace(images=self.augment(batch.images)))


METHODS: dict[str, Callable[[Images, int, Setting], Regime]] = {
    "simclr": lambda images, dim, _: SimCLR(images, dim),
    "vicreg": lambda images, dim, _: VICReg(images, dim),
    "masked": lambda images, dim, _: MaskedViews(images, dim),
    "noisy labels": lambda images, dim, setting: NoisyLabels(images, dim, setting.wrong),
}
WITH_PROJECTOR = ("simclr", "vicreg")
"""Methods whose head is a projector: RankMe and LiDAR are published for its output."""


def settings_of(method: str, number: int, sweep: str = SWEEPS[0]) -> list[Setting]:
    """So many, the same for every source: each is drawn alone, so that fewer are the first of more."""
    return [_drawn(method, index, sweep) for index in range(number)]


def _drawn(method: str, number: int, sweep: str) -> Setting:
    rng = np.random.default_rng([number, sorted(METHODS).index(method), SWEEPS.index(sweep)])

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    setting = Setting(
        method, number,
        learning_rate=between(1e-4, 1e-2),
        weight_decay=between(1e-5, 1e-1),
        batch_size=int(rng.choice(BATCH_SIZES)),
        strength=1.0 if sweep == "one augmentation" else float(rng.uniform(0, 1.5)),
        width=int(rng.choice(WIDTHS)) if sweep == "any width" else WIDTH,
    )  # fmt: skip
    if method == "simclr":
        return setting._replace(temperature=between(0.05, 2))
    if method == "vicreg":
        return setting._replace(invariance=between(2.5, 100), covariance=between(0.1, 10))
    if method == "masked":
        return setting._replace(hidden=float(rng.uniform(0.1, 0.9)))
    return setting._replace(wrong=float(rng.uniform(0, 0.8)))


def objective_of(setting: Setting, images: Images) -> Regime:
    """The loss with its heads; its random numbers are torch's."""
    objective = METHODS[setting.method](images, setting.width, setting)
    objective.augment = partial(images.augment, strength=setting.strength)
    for name in ("weight_decay", "batch_size", "temperature", "invariance", "covariance", "hidden"):
        value = getattr(setting, name)
        if not np.isnan(value):
            setattr(objective, name, value)
    return objective
