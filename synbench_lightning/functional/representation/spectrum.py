"""Label-free statistics of the spectrum of features: effective rank, power-law exponent, collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats
from synbench_lightning.functional.tolerances import ROUNDING

PUBLISHED_FLOOR = 1e-7
"""Added to each normalized singular value before its logarithm is taken (RankMe)."""


def effective_rank(features: Tensor) -> Tensor:
    r"""Compute the effective rank (RankMe): the exponential of the entropy of the features' singular values.

    With :math:`p_k = \sigma_k / |\sigma|_1 + 10^{-7}` it is :math:`\exp(-\sum_k p_k \log p_k)`. The features are not
    centred. Source: RankMe (Garrido et al., 2023), equation 1.

    Args:
        features: ``(N, D)`` features of N examples; the paper takes many more examples than dimensions.

    Returns:
        A number of directions in [1, min(N, D)], up to the rounding of the floor, float64. 0 for features that are 0.

    Raises:
        ValueError: for features of another shape, or NaN or infinite ones.

    Example:
        >>> round(effective_rank(torch.eye(8)).item(), 3)  # all of eight directions equally
        8.0
    """
    return entropy_rank(torch.linalg.svdvals(_checked(features, least=1)))


def alpha_req(features: Tensor) -> Tensor:
    r"""Compute alpha-ReQ: the exponent of a power law fitted to the eigenvalues of the features' covariance.

    See :func:`power_law_exponent`. Source: alpha-ReQ (Agrawal et al., 2022); there, values near 1 go with
    representations that generalize, larger ones with few dominant directions, smaller ones with a flat spectrum.

    Args:
        features: ``(N, D)`` features of N examples. Fewer examples than about ten times the dimensions make the small
            eigenvalues smaller than they are, and the exponent larger.

    Returns:
        The exponent, at least 0, float64. NaN where fewer than two eigenvalues are not zero.

    Raises:
        ValueError: for features of another shape, fewer than two, or NaN or infinite ones.

    Example:
        >>> axes = torch.cat([torch.eye(64), -torch.eye(64)])
        >>> round(alpha_req(axes * torch.arange(1, 65) ** -0.5).item(), 3)  # variances 1, 1/2, 1/3, ...
        1.0
    """
    features = _checked(features, least=2)
    return power_law_exponent(torch.linalg.svdvals(features - features.mean(0)).square())


def feature_std(features: Tensor) -> Tensor:
    """Compute the standard deviation of the features over the examples, averaged over the dimensions.

    Args:
        features: ``(N, D)`` features of N examples.

    Returns:
        The mean standard deviation, float64; 0 for features that are the same for all examples.

    Raises:
        ValueError: for features of another shape, fewer than two, or NaN or infinite ones.

    Example:
        >>> feature_std(torch.tensor([[1.0, 5.0], [-1.0, 5.0], [1.0, 5.0], [-1.0, 5.0]])).round(decimals=4)
        tensor(0.5774, dtype=torch.float64)
    """
    return _checked(features, least=2).std(0).mean()


def collapse_level(features: Tensor) -> Tensor:
    r"""Compute the collapse level: 0 for isotropic features, 1 where all examples have the same direction.

    Features are scaled to length 1; isotropic ones then have the standard deviation :math:`1/\sqrt D` in each
    dimension. The level is 1 minus the mean standard deviation as a fraction of that, at least 0. Source: SimSiam (Chen
    and He, 2021), section 4.1, which monitors this standard deviation.

    Features with a large common mean (after a ReLU, say) have similar directions too: the level is then high although
    a classifier loses nothing.

    Args:
        features: ``(N, D)`` features of N examples.

    Returns:
        The level in [0, 1], float64; 1 for features that are 0.

    Raises:
        ValueError: for features of another shape, fewer than two, or NaN or infinite ones.

    Example:
        >>> collapse_level(torch.ones(16, 4) * torch.arange(1, 17)[:, None])
        tensor(1., dtype=torch.float64)
    """
    checked = _checked(features, least=2)
    directions = checked / checked.norm(dim=1, keepdim=True).clamp_min(torch.finfo(checked.dtype).tiny)
    share: Tensor = math.sqrt(checked.shape[1]) * directions.std(0, correction=0).mean()
    return (1 - share).clamp(0, 1)


def entropy_rank(singular_values: Tensor) -> Tensor:
    """Compute the exponential of the entropy of singular values ``(K,)``, with RankMe's floor; 0 if all are 0."""
    total = singular_values.sum()
    if not bool(total > 0):
        return torch.zeros_like(total)
    shares = singular_values / total + PUBLISHED_FLOOR
    rank: Tensor = (-(shares * shares.log()).sum()).exp()
    return rank


def power_law_exponent(eigenvalues: Tensor, first: int = 1) -> Tensor:
    r"""The exponent :math:`\alpha` of the power law :math:`\lambda_k \propto k^{-\alpha}` that fits a spectrum best.

    Least squares of :math:`\log \lambda_k` on :math:`\log k` with weights :math:`1/k`, so that every octave of ranks
    counts the same (Stringer et al., 2019). All eigenvalues but those that are rounding are used.

    Args:
        eigenvalues: ``(K,)`` eigenvalues of a covariance in any order.
        first: the rank of the largest of them, where larger ones are not to be fitted.

    Returns:
        The exponent, float64 for float64 eigenvalues. NaN where fewer than two eigenvalues are left.

    Example:
        >>> round(power_law_exponent(torch.arange(1, 100, dtype=torch.float64) ** -1.5).item(), 6)
        1.5
    """
    kept = eigenvalues[eigenvalues > ROUNDING * eigenvalues.max()].sort(descending=True).values
    rank = torch.arange(first, first + len(kept), dtype=kept.dtype, device=kept.device)
    weight = 1 / rank
    x, y = rank.log(), kept.log()
    x, y = x - (weight * x).sum() / weight.sum(), y - (weight * y).sum() / weight.sum()
    return -(weight * x * y).sum() / (weight * x * x).sum()


def spectrum_statistics(eigenvalues: Tensor, variances: Tensor) -> tuple[float, float | None, float]:
    """Compute effective rank, alpha-ReQ and feature standard deviation from a given covariance.

    As :func:`effective_rank`, :func:`alpha_req` and :func:`feature_std` of centred features with this covariance.

    Args:
        eigenvalues: ``(D,)`` eigenvalues of the covariance, at least 0.
        variances: ``(D,)`` its diagonal.

    Returns:
        The three numbers; ``None`` for an exponent that does not exist.
    """
    alpha = float(power_law_exponent(eigenvalues))
    return float(entropy_rank(eigenvalues.sqrt())), None if math.isnan(alpha) else alpha, float(variances.sqrt().mean())


def _checked(features: Tensor, least: int) -> Tensor:
    """Check features ``(N, D)`` and return them as float64."""
    checked = check_floats("features", features, f"(at least {least} samples, dimensions)", (None, None))
    if len(checked) < least:
        raise ValueError(f"`features` must hold at least {least} samples, got {len(checked)}.")
    return checked
