"""The block jackknife: a standard error from values without one block of the sample each."""

from __future__ import annotations

from torch import Tensor


def jackknife_error(value: Tensor, replicates: Tensor) -> Tensor:
    r"""Compute the block-jackknife standard error :math:`\sqrt{\frac{B-1}{B} \sum_b (\theta_{-b} - \theta)^2}`.

    Args:
        value: ``(...)``, the statistic :math:`\theta` of the whole sample, or the mean of the replicates.
        replicates: ``(B, ...)``, :math:`\theta_{-b}`, without each block of equal size (Efron, 1982).

    Returns:
        ``(...)``.
    """
    blocks = len(replicates)
    return ((replicates - value).square().sum(0) * (blocks - 1) / blocks).sqrt()
