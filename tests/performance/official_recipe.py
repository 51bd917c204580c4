"""The published recipe, as one would write it from the paper: fresh samples and a discriminant for every scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SCALES = tuple(step / 10 for step in range(1, 50))
SAMPLES = 2048
FORWARDS = 2 * SAMPLES * len(SCALES)


@torch.no_grad()
def official_scores(
    encode: Callable[[Tensor], Tensor],
    input_shape: Sequence[int],
    epsilons: Sequence[float],
    thresholds: Sequence[float],
    seed: int,
) -> Tensor:
    """``(E, H)`` SynBench scores of an encoder: 49 scales, 2048 training and 2048 test samples at each."""
    torch.manual_seed(seed)
    measured = torch.zeros(len(epsilons), len(SCALES), 2, dtype=torch.float64)
    for column, scale in enumerate(SCALES):
        (train, train_labels), (test, test_labels) = (_features(encode, input_shape, scale) for _ in range(2))
        positive, negative = train[train_labels > 0], train[train_labels < 0]
        mu, centre = (positive.mean(0) - negative.mean(0)) / 2, (positive.mean(0) + negative.mean(0)) / 2
        residuals = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
        values, basis = torch.linalg.eigh(residuals.T @ residuals / (len(residuals) - 2))
        values, basis = values[values > 1e-6], basis[:, values > 1e-6]
        for row, epsilon in enumerate(epsilons):
            weights = basis @ (mu @ basis / (values + _ridge(values, mu @ basis, epsilon)))
            margins = test_labels * ((test - centre) @ weights) / (weights @ mu)
            right = margins > 0
            measured[row, column] = torch.stack([right.double().mean(), margins[right].mean()])
    scales = torch.tensor(SCALES, dtype=torch.float64)
    optimal = torch.special.ndtr(scales)
    density = torch.exp(-(scales**2) / 2) / (2 * torch.pi) ** 0.5
    whole = _areas(optimal, 1 + density / (scales * optimal), thresholds)
    return torch.stack([_areas(curve[:, 0], curve[:, 1], thresholds) / whole for curve in measured])


def _features(encode: Callable[[Tensor], Tensor], input_shape: Sequence[int], scale: float) -> tuple[Tensor, Tensor]:
    labels = torch.randint(2, (SAMPLES,)).double() * 2 - 1
    size = torch.Size(input_shape).numel()
    found = []
    for batch in labels.float().split(256):
        shift = batch.reshape(-1, *[1] * len(input_shape)) * scale / size**0.5
        found.append(encode(torch.randn(len(batch), *input_shape) + shift))
    return torch.cat(found).double(), labels


def _ridge(values: Tensor, mu: Tensor, epsilon: float) -> float:
    low, high = 0.0, 1e6
    for _ in range(100 if epsilon > 0 else 0):
        ridge = (low + high) / 2
        too_small = (ridge / (values + ridge) * mu).norm() < epsilon * mu.norm()
        low, high = (ridge, high) if too_small else (low, ridge)
    return low


def _areas(accuracy: Tensor, bound: Tensor, thresholds: Sequence[float]) -> Tensor:
    grid = torch.linspace(0.6, 1, 100, dtype=torch.float64)
    curve = ((accuracy[:, None] > grid) * bound[:, None]).sum(0)
    return torch.stack([curve[grid >= threshold - 1e-12].sum() for threshold in thresholds])
