"""How much noisy versions of some inputs tell, through their features, about which input it was."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_number
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.functional.rounding import ROUNDING

FLOOR = 0.01
"""Noise of the readout, as a share of the mean variance of the features; chosen in ``examples/validity_study.py``."""


def instance_information(features: Tensor, floor: float = FLOOR) -> Tensor:
    r"""The information, in nats, between inputs and the features of noisy versions of them.

    With :math:`W` the covariance of the features of one input under noise, pooled over the inputs, :math:`B` that of
    the means of the inputs, and :math:`\delta` the noise of the readout,

    .. math:: \frac{1}{2} \log\det\left(I + (W + \delta I)^{-1} B\right)

    is the mutual information of a channel with Gaussian inputs of covariance :math:`B` and Gaussian noise :math:`W +
    \delta I`. It is large where the features tell many inputs apart in many directions, by more than noise moves them;
    without :math:`\delta` it would not see a collapse, since it does not change if a direction shrinks as a whole. It
    is the rate reduction of Yu et al., Learning diverse and discriminative representations via the principle of maximal
    coding rate reduction (2020), with every input a class of its own.

    Covariances that are estimated from few noise vectors tell something even where there is nothing to tell. So much as
    is found after the noise was dealt to other inputs is subtracted.

    Args:
        features: ``(K, n, D)``: input, noise (or view), dimension; at least two of the first and of the second.
        floor: :math:`\delta` as a share of the mean variance of the features, positive.

    Returns:
        The information about the K inputs, a float64 scalar, about 0 or larger; 0 for constant features.

    Raises:
        ValueError: for features of another shape or a floor that is not positive.

    Example:
        >>> import math
        >>> means = torch.randn(512, 1, 3, generator=torch.Generator().manual_seed(0))
        >>> noise = torch.randn(512, 64, 3, generator=torch.Generator().manual_seed(1))
        >>> abs(instance_information(means + noise, floor=1e-6).item() - 1.5 * math.log(2)) < 0.1
        True
    """
    check_number("floor", floor, "a positive number", 0, low_in=False)
    if features.ndim != 3 or features.shape[0] < 2 or features.shape[1] < 2:
        raise ValueError(
            "`features` must have the shape (inputs, noise, dimensions), at least two of the first two, got "
            f"{tuple(features.shape)}."
        )
    features = features.double()
    ridge = _readout_noise(features, floor)
    if not bool(ridge):
        return ridge
    inputs, draws = features.shape[:2]
    rest = (features - features.mean(1, keepdim=True)) * (draws / (draws - 1)) ** 0.5
    draw = torch.arange(draws, device=features.device)
    place = torch.arange(inputs, device=features.device)[:, None] + draw
    dealt = rest[place % inputs, draw]
    return _log_ratio(features, ridge) - _log_ratio(dealt, ridge)


def information_error(features: Tensor, floor: float = FLOOR, groups: int = 4) -> Tensor:
    """Standard error of :func:`instance_information` over the noise and over the inputs.

    Of both it is a jackknife that leaves out one group of them after another, and the two are added as variances. The
    inputs bring their noise with them, so that it counts twice: the error is a little large rather than too small.
    Values for the same inputs and noise, as those of two checkpoints, differ by less than it. With fewer than four
    noise vectors for each input (pairs of views) it is that over the inputs alone.

    Args:
        features: ``(K, n, D)`` as there, with K at least twice the number of groups.
        floor: as there.
        groups: that are left out in turn, at least 2.
    """
    features = features.double()
    ridge = _readout_noise(features, floor)
    if not bool(ridge):
        return ridge
    errors = []
    for dim in (0, 1):
        if features.shape[dim] >= 4:
            group = torch.arange(features.shape[dim], device=features.device) % groups
            kept = [(group != left).nonzero()[:, 0] for left in range(groups)]
            without = torch.stack([_log_ratio(features.index_select(dim, places), ridge) for places in kept])
            errors.append(jackknife_error(without.mean(), without))
    combined: Tensor = torch.stack(errors).square().sum().sqrt()
    return combined


def _readout_noise(features: Tensor, floor: float) -> Tensor:
    """The variance that stands for the readout's noise; 0 for constant features."""
    variance = features.flatten(0, 1).var(0).mean()
    return torch.where(variance > ROUNDING * features.square().mean(), floor * variance, 0.0)


def _log_ratio(features: Tensor, ridge: Tensor) -> Tensor:
    """Half the logarithm of the determinant of the whole covariance ``(K, n, D)`` over that within an input."""
    inputs, draws, dim = features.shape
    means = features.mean(1)
    rest = (features - means[:, None]).flatten(0, 1)
    within = rest.T @ rest / (inputs * (draws - 1))
    spread = means - means.mean(0)
    whole = within * (1 - 1 / draws) + spread.T @ spread / (inputs - 1)  # the means have a share of the noise
    floor = ridge * torch.eye(dim, dtype=features.dtype, device=features.device)
    roots = torch.linalg.cholesky(torch.stack([whole, within]) + floor).diagonal(dim1=-2, dim2=-1)
    logarithms: Tensor = roots.log().sum(-1)
    return logarithms[0] - logarithms[1]
