"""The values of tasks from a few points of each: related tasks tell about each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.confidence_intervals import Estimate

FREE = 100.0  # mutants: searched, alike over a range
"""Variance of the shift that all tasks share, as a multiple of what complete evaluations had: it is left to the points.
A run improves beyond all that its warm-up has seen; with 1 the tasks' error there is up to three quarters larger."""

PRIOR = 4.0  # mutants: a convention
"""Degrees of freedom that the mean variance of all tasks has in the variance of each; a convention, not searched."""


def correlations(known: Tensor) -> Tensor:
    """Correlations of tasks over a few complete evaluations, shrunk to a common one.

    Args:
        known: ``(T, K)`` values of the tasks.

    Returns:
        ``(K, K)``, positive definite. The fewer evaluations there are for the tasks, the more they are shrunk.

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
    r"""Estimates of tasks, each drawn to what the others say of it, the more the less certain it is.

    Complete evaluations tell how the values of the tasks vary together, around what mean. A new evaluation is taken
    for one more draw with this covariance :math:`S`, and its estimates :math:`e` for its values with errors
    of variance :math:`V`; then the best linear prediction is :math:`m + S (S + V)^{-1} (e - m)`. A shift that all tasks
    share is free and not drawn anywhere. Variances of few points are uncertain themselves and are drawn to their mean.
    Source: Fay and Herriot (1979), for areas with few observations each.

    Args:
        estimates: of the K tasks, ``(...)`` each, independent and without bias.
        known: ``(T, K)`` values of the tasks in complete evaluations.
        complete: ``(K,)`` whether all points of a task were evaluated, so that its value is exact.

    Returns:
        An estimate of each task, in order, with a bias that a smaller variance outweighs; those given, where there
        are fewer than four complete evaluations or two tasks.

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
    """The mean correlation of different tasks, in [0, .95]."""
    count = len(correlation)
    if count < 2:
        return correlation.new_zeros(())
    return ((correlation.sum() - correlation.trace()) / (count * (count - 1))).clamp(0, 0.95)
