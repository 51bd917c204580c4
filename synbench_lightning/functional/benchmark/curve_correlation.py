"""Pearson correlation of curves over the checkpoints of a training run, of items or of tasks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integers

CONSTANT = 1e-13  # mutants: above rounding
"""A curve that varies by less than this fraction of its mean is constant. A guard against rounding, not searched: 450
times the precision of float64, so that the rounding of a constant curve has no correlation."""


class Correlation(NamedTuple):
    """Pearson correlations ``(n, m)`` and their two-sided p-values ``(n, m)``, both NaN where there is none."""

    r: Tensor
    p_value: Tensor


def pearson(first: Tensor, second: Tensor | None = None) -> Correlation:
    r"""Compute the Pearson correlation of each pair of curves, with its p-value.

    The cost grows with the square of the number of curves. A checkpoint with a missing value (NaN) is ignored for the
    pairs that the value belongs to. The p-value is that of the t-test with two degrees of freedom fewer than
    checkpoints; successive checkpoints are not independent, so treat it as a lower bound.

    Source: Vivek et al., Benchmark Hill Climbing, sections 3.3 and 3.4.

    Args:
        first: ``(T, n)`` curves, one value for each checkpoint.
        second: ``(T, m)`` curves at the same checkpoints; ``None`` for the first ones.

    Returns:
        ``r`` ``(n, m)`` in [-1, 1] and ``p_value`` ``(n, m)`` in [0, 1], float64. Both are NaN where one of the curves
        is constant over the checkpoints that both have, or where those are fewer than two; two give 1 or -1 with the
        p-value 1.

    Raises:
        ValueError: for curves that are not ``(checkpoints, points)``, or not as many checkpoints in both.

    Example:
        >>> rising = torch.tensor([[1.0, 1.0, 4.0], [2.0, 3.0, 4.0], [3.0, 2.0, 4.0]])
        >>> r, p_value = pearson(rising)
        >>> r
        tensor([[1.0000, 0.5000,    nan],
                [0.5000, 1.0000,    nan],
                [   nan,    nan,    nan]], dtype=torch.float64)
        >>> round(p_value[0, 1].item(), 4)
        0.6667
    """
    one = check_curves(first, "first")
    other = one if second is None else check_curves(second, "second")
    if len(one) != len(other):
        raise ValueError(
            f"`first` and `second` must have the same checkpoints, got {len(one)} and {len(other)} of them."
        )
    x, y = centred(one), centred(other)
    seen_x, seen_y = (~torch.isnan(one)).double(), (~torch.isnan(other)).double()
    shared = seen_x.T @ seen_y
    # The curves are centered, but perhaps not over the checkpoints that a pair shares.
    sum_x, sum_y = x.T @ seen_y, seen_x.T @ y
    square_x, square_y = x.square().T @ seen_y, seen_x.T @ y.square()
    vary_x, vary_y = square_x - sum_x.square() / shared, square_y - sum_y.square() / shared
    r = (x.T @ y - sum_x * sum_y / shared) / (vary_x * vary_y).sqrt()
    defined = (shared >= 2) & (vary_x > 1e-12 * square_x) & (vary_y > 1e-12 * square_y)  # mutants: above rounding
    r = torch.where(defined, r.clamp(-1, 1), torch.nan)
    freedom, rest = (shared - 2).clamp_min(0).numpy(), (1 - r.square()).numpy()
    tail = torch.from_numpy(np.where(freedom > 0, betainc(np.maximum(freedom, 1) / 2, 0.5, rest), 1.0))
    return Correlation(r, torch.where(defined, tail, torch.nan))


def task_curves(curves: Tensor, tasks: Tensor) -> Tensor:
    """Compute the mean curve of each task.

    Args:
        curves: ``(T, n)`` curves of the items; missing values (NaN) are ignored.
        tasks: ``(n,)`` task of each item, integers from 0 on.

    Returns:
        ``(T, K)`` float64; NaN where no item of a task has a value.

    Example:
        >>> task_curves(torch.tensor([[1.0, 3.0, 5.0], [2.0, float("nan"), 7.0]]), torch.tensor([0, 0, 1]))
        tensor([[2., 5.],
                [2., 7.]], dtype=torch.float64)
    """
    curves = check_curves(curves, "curves")
    check_tasks(tasks, curves.shape[1])
    member = torch.nn.functional.one_hot(tasks.long()).double()
    seen = (~torch.isnan(curves)).double()
    return (curves.nan_to_num(0.0) @ member) / (seen @ member)


def standardised(curves: Tensor) -> Tensor:
    """Standardize curves to mean 0 and norm 1 over their checkpoints: the inner product of two is their correlation.

    Args:
        curves: ``(T, n)`` curves.

    Returns:
        ``(T, n)`` float64. A constant curve is 0; a missing value (NaN) stays missing.

    Example:
        >>> standardised(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        tensor([[-0.7071,  0.0000],
                [ 0.7071,  0.0000]], dtype=torch.float64)
    """
    curves = check_curves(curves, "curves")
    deviations = centred(curves)
    length = deviations.square().sum(0).sqrt()
    return torch.where(torch.isnan(curves), torch.nan, deviations / torch.where(length > 0, length, 1.0))


def correlation_distance(r: Tensor) -> Tensor:
    r"""Compute Euclidean distances ``(n, n)`` of standardized curves, :math:`\sqrt{2 (1 - r)}`; NaN counts as r = 0.

    Example:
        >>> correlation_distance(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        tensor([[0., 2.],
                [2., 0.]], dtype=torch.float64)
    """
    r = check_floats("r", r, "(curves, curves)", (None, None), finite=False)
    distance = (2 * (1 - r.nan_to_num(0.0))).clamp_min(0).sqrt()
    return distance.fill_diagonal_(0.0)


def centred(curves: Tensor) -> Tensor:
    """Subtract the mean of each curve ``(T, n)``; 0 where a value is missing, and all 0 for a constant curve."""
    seen = ~torch.isnan(curves)
    mean = curves.nan_to_num(0.0).sum(0) / seen.sum(0).clamp_min(1)
    deviation = torch.where(seen, curves - mean, 0.0)
    return torch.where(deviation.abs().amax(0) <= CONSTANT * mean.abs(), 0.0, deviation)


def check_curves(curves: Tensor, name: str) -> Tensor:
    """Check the shape and values of curves ``(T, n)``, and return them as float64."""
    checked = check_floats(name, curves, "(checkpoints, points)", (None, None), finite=False)
    if bool(torch.isinf(curves).any()):
        raise ValueError(
            f"`{name}` must be finite or NaN (missing), got infinity in {int(torch.isinf(curves).any(0).sum())} of "
            f"{curves.shape[1]} curves. Bound log-likelihoods from below."
        )
    return checked


def check_tasks(tasks: Tensor, points: int | None = None) -> None:
    """Check that tasks are integers from 0 on; with ``points``, one for each column of the curves."""
    if points is None:
        points = max(1, len(tasks)) if isinstance(tasks, Tensor) and tasks.ndim else 1
    what = "the task of each point, of each column of `curves`"
    check_integers("tasks", tasks, what=what, length=points, below=points)
