"""How much noisy versions of some inputs tell, through their features, about which input it was."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_number
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.functional.tolerances import ROUNDING

FLOOR = 0.01
"""Noise of the readout, as a share of the mean variance of the features; chosen in ``examples/validity_study.py``."""
COLUMNS = 2048
"""Columns of the features that are made float64 at once."""


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
    ridge = _readout_noise(features, floor)
    if not bool(ridge):
        return ridge
    smaller = _smaller(features)
    return _log_ratio(smaller, ridge) - _log_ratio(_dealt(smaller), ridge)


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
    return replicates_error(information_replicates(features, floor, groups))


def information_replicates(features: Tensor, floor: float = FLOOR, groups: int = 4) -> Tensor:
    """What :func:`information_error` is made of: the information without each group of inputs, and of noise vectors.

    The difference of those of two layers, or two encoders, for the same inputs has the error of the difference.

    Args:
        features: ``(K, n, D)`` as there.
        floor: as there.
        groups: that are left out in turn, at least 2.

    Returns:
        ``(1 or 2, groups)``, by inputs and, where there are at least four noise vectors, by noise; float64.
    """
    ridge = _readout_noise(features, floor)
    dims = [dim for dim in (0, 1) if features.shape[dim] >= 4]
    if not bool(ridge):
        return ridge.new_zeros(len(dims), groups)
    smaller, found = _smaller(features), []
    for dim in dims:
        group = torch.arange(features.shape[dim]).to(features.device) % groups
        kept = [(group != left).nonzero()[:, 0] for left in range(groups)]
        found.append(torch.stack([_log_ratio(_of_some(smaller, dim, places), ridge) for places in kept]))
    return torch.stack(found)


def replicates_error(replicates: Tensor) -> Tensor:
    """The standard error from :func:`information_replicates`, or from the difference of two of them."""
    combined: Tensor = jackknife_error(replicates.mean(1), replicates.T).norm()
    return combined


def _readout_noise(features: Tensor, floor: float) -> Tensor:
    """The variance that stands for the readout's noise; 0 for constant features."""
    if (
        features.shape[-1] > COLUMNS
    ):  # a few columns at a time, since it makes them float64; mutants: both ways give the same numbers
        parts = features.split(COLUMNS, -1)
        variance = torch.stack([part.double().flatten(0, 1).var(0).sum() for part in parts]).sum() / features.shape[-1]
        square = torch.stack([part.double().square().sum() for part in parts]).sum() / features.numel()
    else:
        features = features.double()
        variance, square = features.flatten(0, 1).var(0).mean(), features.square().mean()
    return torch.where(variance > ROUNDING * square, floor * variance, 0.0)


def _smaller(features: Tensor) -> Tensor:
    """The features ``(K, n, D)``, or their inner products ``(K, n, K, n)`` where those are smaller; float64."""
    inputs, draws, dim = features.shape
    rows = inputs * draws
    if dim < rows:
        return features.double()
    products = torch.zeros(rows, rows, dtype=torch.float64, device=features.device)
    for part in features.flatten(0, 1).split(COLUMNS, 1):
        centred = part.double()
        centred -= centred.mean(0)
        products.addmm_(centred, centred.T)
    return products.view(inputs, draws, inputs, draws)


def _of_some(smaller: Tensor, dim: int, places: Tensor) -> Tensor:
    """Of some of the inputs (``dim`` 0) or of the noise vectors (1) alone."""
    some = smaller.index_select(dim, places)
    return some if smaller.ndim == 3 else some.index_select(dim + 2, places)


def _dealt(smaller: Tensor) -> Tensor:
    """What remains of each example beside the mean of its input, given to another input."""
    inputs, draws = smaller.shape[:2]
    draw = torch.arange(draws, device=smaller.device)
    place = (torch.arange(inputs, device=smaller.device)[:, None] + draw) % inputs
    rest = smaller - smaller.mean(1, keepdim=True)
    if smaller.ndim == 3:
        dealt: Tensor = (rest * (draws / (draws - 1)) ** 0.5)[place, draw]
        return dealt
    rest -= rest.mean(3, keepdim=True)
    order = (place * draws + draw).flatten()
    return rest.flatten(0, 1).flatten(1)[order][:, order].view_as(smaller) * (draws / (draws - 1))


def _log_ratio(smaller: Tensor, ridge: Tensor) -> Tensor:
    """Half the logarithm of the determinant of the whole covariance over that within an input."""
    matrices = (_covariances if smaller.ndim == 3 else _inner_products)(smaller)
    matrices.diagonal(dim1=-2, dim2=-1).add_(ridge)
    logarithms: Tensor = torch.linalg.cholesky(matrices).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return logarithms[0] - logarithms[1]


def _covariances(features: Tensor) -> Tensor:
    """Covariances ``(2, D, D)`` of features ``(K, n, D)``: the whole one, and that within an input."""
    inputs, draws, _ = features.shape
    means = features.mean(1)
    rest = (features - means[:, None]).flatten(0, 1)
    within = rest.T @ rest / (inputs * (draws - 1))
    spread = means - means.mean(0)
    whole = within * (1 - 1 / draws) + spread.T @ spread / (inputs - 1)  # the means have a share of the noise
    return torch.stack([whole, within])


def _inner_products(products: Tensor) -> Tensor:
    """Matrices ``(2, K n, K n)`` with the eigenvalues of :func:`_covariances` but for zeros, from inner products.

    Each is that of the rows of a matrix whose columns have the covariance for inner products. The whole one has the
    rows "rest + spread", each with its weight: the products of both cancel within an input.
    """
    inputs, draws = products.shape[:2]
    of_rest = products - products.mean(1, keepdim=True)
    both = of_rest.mean(3)  # of rest and means, (K, n, K)
    both = both - both.mean(2, keepdim=True)
    of_rest -= of_rest.mean(3, keepdim=True)
    means = products.mean((1, 3))
    of_spread = means - means.mean(0) - means.mean(1, keepdim=True) + means.mean()
    freedom, others = inputs * (draws - 1), draws * (inputs - 1)
    share = (1 - 1 / draws) / freedom
    whole = share * of_rest + of_spread[:, None, :, None] / others
    crossed = (share / others) ** 0.5 * both
    whole += crossed[..., None]
    whole += crossed.permute(2, 0, 1)[:, None]
    return torch.stack([whole, of_rest / freedom]).flatten(3).flatten(1, 2)
