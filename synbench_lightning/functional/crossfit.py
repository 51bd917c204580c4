"""Accuracy and bound of a family of tasks from few features: antithetic noise, two folds, one pooled covariance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.functional.discriminant import (
    check_epsilons,
    covariance_spectrum,
    robust_weights,
    summarise_margins,
)

RELATIVE_FLOOR = 1e-9
"""Directions whose variance is below this share of the largest one are numerical noise of float32 features."""


def crossfit_accuracy_and_bound(features: Tensor, epsilons: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Accuracy and bound of the epsilon-robust discriminant of every task and scale, each point used twice.

    The noise vectors are split into two folds; a discriminant fitted on one is measured on the other and the two
    results are averaged. The class means are those of the task and scale; because each noise vector occurs at both
    signs, most of it cancels in their difference. The within-class covariance is pooled over tasks and scales, so that
    one factorisation for each fold serves every scale and epsilon.

    Args:
        features: ``(T, K, P, 2, D)``: task, scale, noise vector, sign (plus, minus), dimension.
        epsilons: strengths of the shift relative to half the distance of the class means, each in [0, 1).

    Returns:
        ``accuracy`` and ``bound``, each ``(T, E, K)``, float64.

    Raises:
        ValueError: for features of another shape, fewer than four noise vectors, or an epsilon outside [0, 1).

    Example:
        >>> noise = torch.randn(1, 3, 512, 1, 8, generator=torch.Generator().manual_seed(0))
        >>> shift = torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1) * torch.eye(8)[0]
        >>> accuracy, bound = crossfit_accuracy_and_bound(torch.cat([noise + shift, noise - shift], 3), [0.0])
        >>> (accuracy[0, 0] - torch.special.ndtr(torch.tensor([0.5, 1.0, 2.0]))).abs().max() < 0.02
        tensor(True)
    """
    epsilons = check_epsilons(epsilons)
    if features.ndim != 5 or features.shape[3] != 2 or features.shape[2] < 4:
        raise ValueError(
            "`features` must have the shape (tasks, scales, at least 4 noise vectors, 2 signs, dimensions), got "
            f"{tuple(features.shape)}."
        )
    folds = features[:, :, 0::2], features[:, :, 1::2]
    halves = [_fit_and_measure(folds[i].double(), folds[1 - i].double(), epsilons) for i in (0, 1)]
    accuracy = (halves[0][0] + halves[1][0]) / 2
    return accuracy, (halves[0][1] + halves[1][1]) / 2


def _fit_and_measure(train: Tensor, test: Tensor, epsilons: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    means = train.mean(2)
    residuals = (train - means.unsqueeze(2)).flatten(0, 3)
    degrees_of_freedom = len(residuals) - means[..., 0].numel()
    covariance = residuals.T @ residuals / degrees_of_freedom
    spectrum = covariance_spectrum(covariance, RELATIVE_FLOOR * float(covariance.diagonal().sum()))
    half_differences = (means[:, :, 0] - means[:, :, 1]) / 2
    weights = torch.stack([robust_weights(spectrum, mu, epsilons) for mu in half_differences.flatten(0, 1)])
    weights = weights.unflatten(0, half_differences.shape[:2])  # (T, K, E, D)
    projected = torch.einsum("tkpsd,tked->teksp", test - means.mean(2)[:, :, None, None], weights)
    signs = torch.tensor([1.0, -1.0], dtype=projected.dtype, device=projected.device)
    return summarise_margins((projected * signs[:, None]).flatten(3))
