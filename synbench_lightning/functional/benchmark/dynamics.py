"""How tasks and points are related, read off their curves over the checkpoints of a training run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from synbench_lightning.checks import check_integer

CONSTANT = 1e-13
"""A curve that varies by less than this share of its mean is constant: what is left is rounding."""


class Correlation(NamedTuple):
    """Pearson correlations ``(n, m)`` and their two-sided p-values ``(n, m)``, both NaN where there is none."""

    r: Tensor
    p_value: Tensor


class Cartography(NamedTuple):
    """Coordinates ``(n,)`` of each point on the map of a dataset; correctness ``None`` if it was not asked for."""

    confidence: Tensor
    variability: Tensor
    correctness: Tensor | None


def pearson(first: Tensor, second: Tensor | None = None) -> Correlation:
    r"""Pearson correlation of every curve with every curve, and how likely one as strong is by chance.

    The pairwise way: its cost grows with the square of the number of curves. A missing value (NaN) leaves its
    checkpoint out for the pairs that it belongs to. The p-value is that of the t-test with two degrees of freedom fewer
    than checkpoints; successive checkpoints resemble each other, so take it for a lower limit.

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
    one = _curves(first, "first")
    other = one if second is None else _curves(second, "second")
    if len(one) != len(other):
        raise ValueError(
            f"`first` and `second` must have the same checkpoints, got {len(one)} and {len(other)} of them."
        )
    x, y = _centred(one), _centred(other)
    seen_x, seen_y = (~torch.isnan(one)).double(), (~torch.isnan(other)).double()
    shared = seen_x.T @ seen_y
    # The curves are centred, but perhaps not over the checkpoints that a pair shares.
    sum_x, sum_y = x.T @ seen_y, seen_x.T @ y
    square_x, square_y = x.square().T @ seen_y, seen_x.T @ y.square()
    vary_x, vary_y = square_x - sum_x.square() / shared, square_y - sum_y.square() / shared
    r = (x.T @ y - sum_x * sum_y / shared) / (vary_x * vary_y).sqrt()
    defined = (shared >= 2) & (vary_x > 1e-12 * square_x) & (vary_y > 1e-12 * square_y)
    r = torch.where(defined, r.clamp(-1, 1), torch.nan)
    freedom, rest = (shared - 2).clamp_min(0).numpy(), (1 - r.square()).numpy()
    tail = torch.from_numpy(np.where(freedom > 0, betainc(np.maximum(freedom, 1) / 2, 0.5, rest), 1.0))
    return Correlation(r, torch.where(defined, tail, torch.nan))


def task_curves(curves: Tensor, tasks: Tensor) -> Tensor:
    """The mean curve of each task.

    Args:
        curves: ``(T, n)`` curves of the points; a missing value (NaN) leaves its point out at that checkpoint.
        tasks: ``(n,)`` task of each point, integers from 0 on.

    Returns:
        ``(T, K)`` float64; NaN where no point of a task has a value.

    Example:
        >>> task_curves(torch.tensor([[1.0, 3.0, 5.0], [2.0, float("nan"), 7.0]]), torch.tensor([0, 0, 1]))
        tensor([[2., 5.],
                [2., 7.]], dtype=torch.float64)
    """
    curves = _curves(curves, "curves")
    if tasks.shape != curves.shape[1:] or tasks.is_floating_point():
        raise ValueError(
            f"`tasks` must be integers of shape {tuple(curves.shape[1:])}, one for each column of `curves`, got "
            f"{tasks.dtype} of shape {tuple(tasks.shape)}."
        )
    member = torch.nn.functional.one_hot(tasks.long()).double()
    seen = (~torch.isnan(curves)).double()
    return (curves.nan_to_num(0.0) @ member) / (seen @ member)


def standardised(curves: Tensor) -> Tensor:
    """Curves with mean 0 and length 1 over their checkpoints: the inner product of two is their correlation.

    Args:
        curves: ``(T, n)`` curves.

    Returns:
        ``(T, n)`` float64. A constant curve is 0; a missing value (NaN) stays missing.

    Example:
        >>> standardised(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        tensor([[-0.7071,  0.0000],
                [ 0.7071,  0.0000]], dtype=torch.float64)
    """
    curves = _curves(curves, "curves")
    centred = _centred(curves)
    length = centred.square().sum(0).sqrt()
    return torch.where(torch.isnan(curves), torch.nan, centred / torch.where(length > 0, length, 1.0))


def polynomial_basis(positions: Tensor, degree: int) -> Tensor:
    """Polynomials of degree 0 to ``degree`` that are orthonormal over the checkpoints.

    Each is the one before times the position, made orthogonal to all before it, twice: powers of the position
    (Vandermonde) would be dependent within rounding from about degree 15 on, this stays orthonormal to the highest
    degree. Source: Brubeck, Nakatsukasa and Trefethen, Vandermonde with Arnoldi (2021).

    Args:
        positions: ``(T,)`` different positions of the checkpoints, as the steps.
        degree: highest degree, at most T - 1.

    Returns:
        ``(T, degree + 1)`` orthonormal columns, float64.

    Raises:
        ValueError: for positions that are not different finite numbers, or a degree that they do not determine.

    Example:
        >>> polynomial_basis(torch.tensor([0.0, 1.0, 2.0]), degree=2)
        tensor([[ 0.5774, -0.7071,  0.4082],
                [ 0.5774,  0.0000, -0.8165],
                [ 0.5774,  0.7071,  0.4082]], dtype=torch.float64)
    """
    x = positions.double()
    if x.ndim != 1 or not bool(torch.isfinite(x).all()) or len(x.unique()) < len(x):
        raise ValueError(f"`positions` must be different finite numbers (checkpoints,), got {positions.tolist()}.")
    degree = check_integer("degree", degree, 0)
    if degree >= len(x):
        raise ValueError(f"`degree` must be below the number of checkpoints, {len(x)}, got {degree}.")
    x = (x - x.mean()) / (x - x.mean()).abs().max().clamp_min(torch.finfo(x.dtype).tiny)
    basis = x.new_full((len(x), degree + 1), len(x) ** -0.5)
    for power in range(1, degree + 1):
        column, before = x * basis[:, power - 1], basis[:, :power]
        for _ in range(2):
            column = column - before @ (before.T @ column)
        basis[:, power] = column / column.norm()
    return basis


def polynomial_coefficients(curves: Tensor, degree: int, positions: Tensor | None = None) -> Tensor:
    r"""Coefficients of the polynomial that fits each curve best: the way that costs O(n).

    The basis is orthonormal over the checkpoints (:func:`polynomial_basis`). So for :func:`standardised` curves and the
    degree T - 1 the squared distance of two coefficient vectors is exactly :math:`2 (1 - r)`, and for a lower degree it
    compares smoothed curves. A curve with missing values (NaN) is fitted at the checkpoints that it has; where those do
    not determine the degree, the shortest of the coefficient vectors that fit is taken. Each pattern of missing
    checkpoints costs a factorisation.

    Source: Vivek et al., Benchmark Hill Climbing, section 3.4.

    Args:
        curves: ``(T, n)`` curves.
        degree: of the polynomials, at most T - 1.
        positions: ``(T,)`` positions of the checkpoints; ``None`` for equal distances.

    Returns:
        ``(n, degree + 1)`` coefficients, float64; 0 for a curve without any value.

    Raises:
        ValueError: for curves or positions of the wrong shape, or a degree that is too high.

    Example:
        >>> parabola = torch.arange(5.0)[:, None] ** 2
        >>> coefficients = polynomial_coefficients(parabola, degree=3)
        >>> (polynomial_basis(torch.arange(5.0), 3) @ coefficients[0]).round(decimals=3)
        tensor([ 0.,  1.,  4.,  9., 16.], dtype=torch.float64)
        >>> abs(coefficients[0, 3].item()) < 1e-12
        True
    """
    curves = _curves(curves, "curves")
    positions = torch.arange(len(curves)) if positions is None else positions
    if positions.shape != curves.shape[:1]:
        raise ValueError(
            f"`positions` must have shape {(len(curves),)}, one for each checkpoint, got {tuple(positions.shape)}."
        )
    basis = polynomial_basis(positions, degree)
    missing = torch.isnan(curves)
    if not bool(missing.any()):
        return curves.T @ basis
    patterns, pattern_of = missing.T.unique(dim=0, return_inverse=True)
    coefficients = curves.new_zeros(curves.shape[1], degree + 1)
    for index, pattern in enumerate(patterns):
        own = pattern_of == index
        if not bool(pattern.all()):
            coefficients[own] = (torch.linalg.pinv(basis[~pattern]) @ curves[~pattern][:, own]).T
    return coefficients


def agreement(coefficients: Tensor, r: Tensor) -> float:
    """How well the O(n) way agrees with the pairwise one, as the paper measures it.

    Pearson correlation, over all pairs of points, of the pairwise correlation with minus the Euclidean distance of the
    coefficients. Source: Vivek et al., Benchmark Hill Climbing, figure 8.

    Args:
        coefficients: ``(n, degree + 1)`` of :func:`polynomial_coefficients`.
        r: ``(n, n)`` of :func:`pearson`; pairs whose correlation is NaN are left out.

    Returns:
        A number in [-1, 1]; 1 for full agreement; NaN for fewer than two pairs.

    Example:
        >>> curves = torch.randn(12, 50, generator=torch.Generator().manual_seed(0))
        >>> agreement(polynomial_coefficients(standardised(curves), degree=11), pearson(curves).r) > 0.98
        True
    """
    n = len(coefficients)
    if r.shape != (n, n):
        raise ValueError(f"`r` must have shape {(n, n)}, a row for each of `coefficients`, got {tuple(r.shape)}.")
    row, column = torch.triu_indices(n, n, offset=1)
    distance = torch.nn.functional.pdist(coefficients.double())
    pairs = torch.stack([-distance, r.double()[row, column]], 1)
    return pearson(pairs[~torch.isnan(pairs).any(1)]).r[0, 1].item() if n > 2 else float("nan")


def cartography(curves: Tensor, correct: Tensor | None = None) -> Cartography:
    """Where each point lies between easy, ambiguous and hard to learn.

    Source: Swayamdipta et al., Dataset Cartography (2020): mean and standard deviation over the checkpoints of the
    probability of the right label, and the share of checkpoints at which it was the most probable.

    Args:
        curves: ``(T, n)`` probability of the right label, or its logarithm; missing values are NaN.
        correct: ``(T, n)`` whether the right label was the most probable one.

    Returns:
        Confidence, variability and correctness of each point, ``(n,)`` each, float64; NaN for a point without values.

    Example:
        >>> probability = torch.tensor([[0.5, 0.9], [0.7, 0.9]])
        >>> confidence, variability, correctness = cartography(probability, probability > 0.6)
        >>> confidence, variability, correctness
        (tensor([0.6000, 0.9000], dtype=torch.float64), tensor([0.1000, 0.0000], dtype=torch.float64), tensor([0.5000, 1.0000], dtype=torch.float64))
    """  # noqa: E501 (one line, as it is printed)
    curves = _curves(curves, "curves")
    if correct is not None and correct.shape != curves.shape:
        raise ValueError(
            f"`correct` must have the shape of `curves`, {tuple(curves.shape)}, got {tuple(correct.shape)}."
        )
    seen = ~torch.isnan(curves)
    count = torch.where(seen.any(0), seen.sum(0).double(), torch.nan)
    variability = (_centred(curves).square().sum(0) / count).sqrt()
    correctness = None if correct is None else (correct & seen).sum(0).double() / count
    return Cartography(curves.nan_to_num(0.0).sum(0) / count, variability, correctness)


def multidimensional_scaling(distances: Tensor, dims: int = 2) -> Tensor:
    r"""Positions whose distances are as close to the given ones as linear algebra gets (classical scaling).

    For curves, :math:`\sqrt{2 (1 - r)}` is their Euclidean distance after standardisation; unrelated curves (NaN) are
    given the correlation 0.

    Args:
        distances: ``(n, n)`` symmetric, not negative, 0 on the diagonal.
        dims: of the positions.

    Returns:
        ``(n, dims)`` float64, centred, along the principal axes; the sign of each axis is that of its largest position.

    Raises:
        ValueError: for distances that are not such a matrix.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
        >>> found = multidimensional_scaling(torch.cdist(corners, corners))
        >>> torch.allclose(torch.cdist(found, found), torch.cdist(corners, corners).double(), atol=1e-6)
        True
    """
    d = distances.double()
    dims = check_integer("dims", dims, 1)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not bool(torch.isfinite(d).all()) or bool((d < 0).any()):
        raise ValueError(
            f"`distances` must be a square matrix of finite numbers of at least 0, got shape {tuple(distances.shape)}."
        )
    if not torch.allclose(d, d.T, atol=1e-8) or bool((d.diagonal().abs() > 1e-6).any()):
        raise ValueError("`distances` must be symmetric and 0 on the diagonal.")
    squares = d.square()
    inner = -0.5 * (squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean())
    eigenvalues, vectors = torch.linalg.eigh(inner)
    kept = torch.arange(len(d) - 1, max(len(d) - 1 - dims, -1), -1)
    positions = vectors[:, kept] * eigenvalues[kept].clamp_min(0).sqrt()
    positions = torch.nn.functional.pad(positions, (0, dims - positions.shape[1]))
    largest = positions.gather(0, positions.abs().argmax(0, keepdim=True))
    return positions * torch.where(largest < 0, -1.0, 1.0)


def correlation_distance(r: Tensor) -> Tensor:
    r"""Euclidean distances ``(n, n)`` of standardised curves, :math:`\sqrt{2 (1 - r)}`; NaN counts as uncorrelated.

    Example:
        >>> correlation_distance(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        tensor([[0., 2.],
                [2., 0.]], dtype=torch.float64)
    """
    distance = (2 * (1 - r.double().nan_to_num(0.0))).clamp_min(0).sqrt()
    return distance.fill_diagonal_(0.0)


def _centred(curves: Tensor) -> Tensor:
    """Curves minus their means; 0 where a value is missing, and all 0 for a constant curve."""
    seen = ~torch.isnan(curves)
    mean = curves.nan_to_num(0.0).sum(0) / seen.sum(0).clamp_min(1)
    deviation = torch.where(seen, curves - mean, 0.0)
    return torch.where(deviation.abs().amax(0) <= CONSTANT * mean.abs(), 0.0, deviation)


def _curves(curves: Tensor, name: str) -> Tensor:
    if curves.ndim != 2 or 0 in curves.shape or not curves.is_floating_point():
        raise ValueError(
            f"`{name}` must be a floating-point tensor (checkpoints, points), got {curves.dtype} of shape "
            f"{tuple(curves.shape)}."
        )
    if bool(torch.isinf(curves).any()):
        raise ValueError(
            f"`{name}` must be finite or NaN (missing), got infinity in {int(torch.isinf(curves).any(0).sum())} of "
            f"{curves.shape[1]} curves. Bound log-likelihoods from below."
        )
    return curves.double()
