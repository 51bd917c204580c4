"""Shrinkage of the estimates of tasks towards the estimates of related tasks (Fay-Herriot)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.confidence_intervals import Estimate

FREE = 100.0  # mutants: searched, alike over a range
"""Prior variance of the shift common to all tasks, as a multiple of that in the complete evaluations: large, so that
the shift is hardly shrunk. A run improves beyond the values of its warm-up; with 1 the tasks' error there is up to
three quarters larger."""

PRIOR = 4.0  # mutants: a convention
"""Degrees of freedom of the mean variance of all tasks as a prior for that of each; a convention, not searched."""


def correlations(known: Tensor) -> Tensor:
    """Estimate the correlations of tasks over a few complete evaluations, shrunk to their mean.

    Args:
        known: ``(T, K)`` values of the tasks.

    Returns:
        ``(K, K)``, positive definite. The weight of the mean correlation is K / (K + T).

    Example:
        >>> correlations(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 4.0]])).round(decimals=2)
        tensor([[1.0000, 0.9600],
                [0.9600, 1.0000]], dtype=torch.float64)
    """
    turns, count = known.shape
    deviations = known.double() - known.double().mean(0)
    scaled = deviations / deviations.square().sum(0).sqrt().clamp_min(1e-12)  # mutants: any tiny number
    found = scaled.T @ scaled
    share = count / (count + turns)
    mixed = (1 - share) * found + share * _common(found)
    return mixed.fill_diagonal_(1.0)


def related_tasks(estimates: Sequence[Estimate], known: Tensor, complete: Tensor) -> list[Estimate]:
    r"""Shrink the estimate of each task towards the estimates of the other tasks, by best linear prediction.

    The complete evaluations give a mean :math:`m` and a covariance :math:`S` of the values of the tasks. A new
    evaluation is modeled as one more sample of these values, and its estimates :math:`e` as the values with errors of
    variance :math:`V`; the best linear prediction is :math:`m + S (S + V)^{-1} (e - m)`. A shift common to all tasks is
    hardly shrunk. Variances from few items are uncertain and are shrunk towards their mean. Source: Fay and Herriot
    (1979), for small areas.

    Args:
        estimates: of the K tasks, ``(...)`` each, independent and unbiased.
        known: ``(T, K)`` values of the tasks in complete evaluations.
        complete: ``(K,)`` whether all items of a task were evaluated, so that its value is exact.

    Returns:
        An estimate of each task, in order, with a smaller variance and some bias; those given, where there are fewer
        than four complete evaluations or two tasks.

    Example:
        >>> known = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8], [0.9, 1.0]])  # the second is .1 above
        >>> far = [Estimate(*torch.tensor([value, 0.2, 9.0])) for value in (0.5, 0.8)]
        >>> near = related_tasks(far, known, torch.tensor([False, False]))
        >>> [round(task.value.item(), 2) for task in near]
        [0.59, 0.71]
    """
    turns, count = known.shape
    freedom = torch.stack([estimate.degrees_of_freedom.double() for estimate in estimates], -1)
    variance = torch.stack([estimate.standard_error.double().square() for estimate in estimates], -1)
    told = ~complete & torch.isfinite(variance)
    if turns < 4 or count < 2 or not bool(told.any(-1).all()):
        return list(estimates)
    value = torch.stack([estimate.value.double() for estimate in estimates], -1)
    known = known.double()
    weight = torch.where(told, freedom, 0.0)
    variance = torch.where(told, variance, 0.0)
    usual = variance.sum(-1, keepdim=True) / told.sum(-1, keepdim=True)
    variance = torch.where(complete, 0.0, (weight * variance + PRIOR * usual) / (weight + PRIOR))
    spread = known.std(0).clamp_min(1e-9)  # mutants: any tiny number
    together = correlations(known)
    # As of a predictive t distribution with T - 1 degrees of freedom.
    scale = (1 + 1 / turns) * (turns - 1) / (turns - 3)
    free = FREE * _common(together)  # mutants: large in either case
    covariance = scale * (together + free) * spread[:, None] * spread
    gain = torch.linalg.solve(covariance + torch.diag_embed(variance), covariance.expand(*variance.shape, count))
    moved = known.mean(0) + ((value - known.mean(0))[..., None, :] @ gain)[..., 0, :]
    left = (covariance - covariance @ gain).diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    moved, left = torch.where(complete, value, moved), torch.where(complete, 0.0, left)
    each = torch.full_like(left, float(turns - 1))
    return [Estimate(moved[..., task], left[..., task], each[..., task]) for task in range(count)]


def _common(correlation: Tensor) -> Tensor:
    """Compute the mean correlation of different tasks, clipped to [0, .95], from correlations ``(K, K)``."""
    count = len(correlation)
    if count < 2:
        return correlation.new_zeros(())
    return ((correlation.sum() - correlation.trace()) / (count * (count - 1))).clamp(0, 0.95)
