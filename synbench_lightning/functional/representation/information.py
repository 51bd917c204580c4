"""Mutual information between the features of a view (or a noisy copy) of an input and the identity of the input."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_number
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.functional.tolerances import ROUNDING

FLOOR = 0.01
"""Regularization of the within-input covariance, as a fraction of the mean variance of the features.

Chosen in ``examples/validity_study.py``.
"""
COLUMNS = 2048  # mutants: memory and time alone
"""Number of columns of the features that are converted to float64 at once."""
WIDTH_RATIO = 4
"""Features are compared if their widths differ by at most this factor; more was not measured."""


def instance_information(features: Tensor, floor: float = FLOOR) -> Tensor:
    r"""Compute the mutual information, in nats, between the features of a view and the identity of its input.

    With :math:`W` the covariance of the features within an input (over its views or noisy copies), pooled over the
    inputs, :math:`B` the covariance between the inputs' means, and :math:`\delta` a regularization,

    .. math:: \frac{1}{2} \log\det\left(I + (W + \delta I)^{-1} B\right)

    is the mutual information of a channel with Gaussian inputs of covariance :math:`B` and Gaussian noise :math:`W +
    \delta I`. It is large where the inputs differ in many directions of the features by more than their views do.
    Without :math:`\delta` it would not detect a collapse, since it is invariant to the scale of each direction. It is
    the rate reduction of Yu et al., Learning diverse and discriminative representations via the principle of maximal
    coding rate reduction (2020), with every input a class of its own.

    Estimated from few views it is positive even where :math:`B = 0`. A baseline with the residuals permuted across
    inputs is subtracted. Estimators and derivations: "Information" in ``docs/mathematics.md``.

    Args:
        features: ``(K, n, D)``: input, view (or noisy copy), dimension; at least two of the first and of the second.
        floor: :math:`\delta` as a fraction of the mean variance of the features, positive.

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
    delta = _regularization(features, floor)
    if not bool(delta):
        return delta
    sample = _features_or_products(features)
    return _log_ratio(sample, delta) - _log_ratio(_permuted(sample), delta)


def information_error(features: Tensor, floor: float = FLOOR, groups: int = 4) -> Tensor:
    """Compute the standard error of :func:`instance_information` over the views and over the inputs.

    The variances of two group jackknives, over inputs and over views, are added. A group of inputs contains its views,
    whose variation is counted twice: the error is conservative. The difference of two values for the same inputs and
    views, as of two checkpoints, has a smaller error (:func:`information_replicates`). With fewer than four views of
    each input (pairs) the jackknife is over the inputs alone.

    Args:
        features: ``(K, n, D)`` as in :func:`instance_information`, with K at least twice the number of groups.
        floor: as in :func:`instance_information`.
        groups: number of groups that are held out in turn, at least 2.
    """
    return replicates_error(information_replicates(features, floor, groups))


def information_replicates(features: Tensor, floor: float = FLOOR, groups: int = 4) -> Tensor:
    """Compute the jackknife replicates of the information: without each group of inputs, and of views.

    The baseline is not subtracted, and delta is that of the whole sample. The difference of the replicates of two
    layers, or two encoders, for the same inputs gives the standard error of the difference of their values.

    Args:
        features: ``(K, n, D)`` as in :func:`instance_information`.
        floor: as in :func:`instance_information`.
        groups: number of groups that are held out in turn, at least 2.

    Returns:
        ``(1 or 2, groups)``, by inputs and, where there are at least four views, by views; float64.
    """
    delta = _regularization(features, floor)
    dims = [dim for dim in (0, 1) if features.shape[dim] >= 4]
    if not bool(delta):
        return delta.new_zeros(len(dims), groups)
    sample, found = _features_or_products(features), []
    for dim in dims:
        group = torch.arange(features.shape[dim]).to(features.device) % groups
        kept = [(group != left).nonzero()[:, 0] for left in range(groups)]
        found.append(torch.stack([_log_ratio(_subset(sample, dim, indices), delta) for indices in kept]))
    return torch.stack(found)


def replicates_error(replicates: Tensor) -> Tensor:
    """Compute the standard error from replicates ``(1 or 2, groups)``, or from the difference of two sets of them."""
    combined: Tensor = jackknife_error(replicates.mean(1), replicates.T).norm()
    return combined


def comparable_widths(one: int, other: int) -> bool:
    """Whether information, or the readout of labels, may be compared between features of these widths.

    Both were compared for widths of 12 to 96, between the layers of a network and between the runs of a sweep: "Which
    layer to read" and "Which run of a sweep" in ``examples/README.md``.

    Example:
        >>> comparable_widths(64, 256), comparable_widths(64, 512)
        (True, False)
    """
    return max(one, other) <= WIDTH_RATIO * min(one, other)


def _regularization(features: Tensor, floor: float) -> Tensor:
    """Compute delta, ``floor`` times the mean over the dimensions of the total variance; 0 for constant features."""
    # A few columns at a time, since they are converted to float64.
    if features.shape[-1] > COLUMNS:  # mutants: both branches give the same numbers
        parts = features.split(COLUMNS, -1)
        variance = torch.stack([part.double().flatten(0, 1).var(0).sum() for part in parts]).sum() / features.shape[-1]
        square = torch.stack([part.double().square().sum() for part in parts]).sum() / features.numel()
    else:
        features = features.double()
        variance, square = features.flatten(0, 1).var(0).mean(), features.square().mean()
    return torch.where(variance > ROUNDING * square, floor * variance, 0.0)


def _features_or_products(features: Tensor) -> Tensor:
    """Return the features ``(K, n, D)``, or their inner products ``(K, n, K, n)`` where those are smaller; float64.

    The products ``[a, i, b, j]`` are of features less their mean over all inputs and views.
    """
    inputs, views, dim = features.shape
    rows = inputs * views
    if dim < rows:
        return features.double()
    products = torch.zeros(rows, rows, dtype=torch.float64, device=features.device)
    for part in features.flatten(0, 1).split(COLUMNS, 1):
        centered = part.double()
        centered -= centered.mean(0)
        products.addmm_(centered, centered.T)
    return products.view(inputs, views, inputs, views)


def _subset(sample: Tensor, dim: int, indices: Tensor) -> Tensor:
    """Select inputs (``dim`` 0) or views (1), of features ``(K, n, D)`` or in both places of inner products."""
    some = sample.index_select(dim, indices)
    return some if sample.ndim == 3 else some.index_select(dim + 2, indices)


def _permuted(sample: Tensor) -> Tensor:
    r"""Permute the residuals across inputs: a sample of the same shape and the same :math:`W`, with :math:`B = 0`.

    View i of the input a gets the residual :math:`\sqrt{n / (n - 1)} \, r_{bi}` of the input :math:`b = (a + i) \bmod
    K`, so that the views of one input come from different inputs. The factor makes the residuals, which lack the
    variance of their mean, unbiased for W.
    """
    inputs, views = sample.shape[:2]
    view = torch.arange(views, device=sample.device)
    source = (torch.arange(inputs, device=sample.device)[:, None] + view) % inputs  # b, (K, n)
    residual = sample - sample.mean(1, keepdim=True)
    if sample.ndim == 3:
        permuted: Tensor = (residual * (views / (views - 1)) ** 0.5)[source, view]
        return permuted
    residual -= residual.mean(3, keepdim=True)  # r_ai . r_bj
    order = (source * views + view).flatten()  # the row of each residual in (K n)
    return residual.flatten(0, 1).flatten(1)[order][:, order].view_as(sample) * (views / (views - 1))


def _log_ratio(sample: Tensor, delta: Tensor) -> Tensor:
    r"""Compute :math:`\frac12 \log\det(W + B + \delta I) - \frac12 \log\det(W + \delta I)` of features or products.

    Half a log-determinant is the sum of the logarithms of the Cholesky factor's diagonal. The eigenvalues that inner
    products lack or have too many of are 0: each contributes :math:`\delta` to both determinants.
    """
    matrices = (_covariances if sample.ndim == 3 else _inner_products)(sample)
    matrices.diagonal(dim1=-2, dim2=-1).add_(delta)
    half_log_det: Tensor = torch.linalg.cholesky(matrices).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return half_log_det[0] - half_log_det[1]


def _covariances(features: Tensor) -> Tensor:
    r"""Estimate W + B and W, ``(2, D, D)``, from features ``(K, n, D)``.

    With residuals :math:`r` and centered means :math:`s`: :math:`\hat W = \sum r r^\top / (K (n - 1))`. The covariance
    of the means, :math:`\sum s s^\top / (K - 1)`, estimates :math:`B + W / n`, so :math:`(1 - 1/n) \hat W` is added.
    """
    inputs, views, _ = features.shape
    means = features.mean(1)
    residual = (features - means[:, None]).flatten(0, 1)
    within = residual.T @ residual / (inputs * (views - 1))
    spread = means - means.mean(0)
    total = within * (1 - 1 / views) + spread.T @ spread / (inputs - 1)
    return torch.stack([total, within])


def _inner_products(products: Tensor) -> Tensor:
    r"""Compute matrices ``(2, K n, K n)`` with the eigenvalues of :func:`_covariances`, up to zeros.

    W + B is :math:`Z^\top Z` with the rows :math:`z_{ai} = \sqrt\alpha \, r_{ai} + \sqrt\beta \, s_a`, where
    :math:`\alpha = (1 - 1/n) / (K (n - 1))` and :math:`\beta = 1 / (n (K - 1))`, because the cross terms cancel in the
    sum over the views of an input. :math:`Z Z^\top` has the same eigenvalues, and entries :math:`\alpha
    \, r_{ai} \cdot r_{bj} + \beta \, s_a \cdot s_b + \sqrt{\alpha \beta} \, (r_{ai} \cdot s_b + s_a \cdot r_{bj})`. W
    has the first term alone, with the weight :math:`1 / (K (n - 1))`.

    Args:
        products: ``(K, n, K, n)``, indices a, i, b, j.
    """
    inputs, views = products.shape[:2]
    residuals = products - products.mean(1, keepdim=True)  # r_ai . x_bj
    crossed = residuals.mean(3)  # r_ai . mean of b, (K, n, K)
    crossed = crossed - crossed.mean(2, keepdim=True)  # r_ai . s_b
    residuals -= residuals.mean(3, keepdim=True)  # r_ai . r_bj
    means = products.mean((1, 3))
    spread = means - means.mean(0) - means.mean(1, keepdim=True) + means.mean()  # s_a . s_b, (K, K)
    freedom, others = inputs * (views - 1), views * (inputs - 1)  # others: 1 / beta
    alpha = (1 - 1 / views) / freedom
    total = alpha * residuals + spread[:, None, :, None] / others
    crossed = (alpha / others) ** 0.5 * crossed
    total += crossed[..., None]  # the same for every j
    total += crossed.permute(2, 0, 1)[:, None]  # s_a . r_bj, which is crossed[b, j, a], at [a, i, b, j]
    return torch.stack([total, residuals / freedom]).flatten(3).flatten(1, 2)
