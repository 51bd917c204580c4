"""The standard error of a statistic from its values without parts of the sample."""

from __future__ import annotations

from torch import Tensor


def jackknife_error(value: Tensor, replicates: Tensor) -> Tensor:
    """Standard error of a statistic from its values without each block ``(B, ...)``."""
    blocks = len(replicates)
    return ((replicates - value).square().sum(0) * (blocks - 1) / blocks).sqrt()
