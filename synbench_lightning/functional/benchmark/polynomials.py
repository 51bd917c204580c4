"""Polynomial coefficients of training curves, which can be compared at a cost of O(n) instead of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integer, check_numbers
from synbench_lightning.functional.benchmark.curve_correlation import check_curves, pearson


def polynomial_basis(positions: Tensor, degree: int) -> Tensor:
    """Compute polynomials of degree 0 to ``degree`` that are orthonormal over the checkpoints (Arnoldi).

    Each is the previous one times the position, orthogonalized against all previous ones, twice: powers of the position
    (Vandermonde) would be linearly dependent within rounding from about degree 15 on, while this stays orthonormal to
    the highest degree. Source: Brubeck, Nakatsukasa and Trefethen, Vandermonde with Arnoldi (2021).

    Args:
        positions: ``(T,)`` different positions of the checkpoints, as the steps.
        degree: highest degree, at most T - 1.

    Returns:
        ``(T, degree + 1)`` orthonormal columns, float64.

    Raises:
        ValueError: for positions that are not different finite numbers, or a degree that they do not determine.

    Example:
        >>> basis = polynomial_basis(torch.tensor([0.0, 1.0, 2.0]), degree=2)
        >>> basis.abs().round(decimals=4)
        tensor([[0.5774, 0.7071, 0.4082],
                [0.5774, 0.0000, 0.8165],
                [0.5774, 0.7071, 0.4082]], dtype=torch.float64)
    """
    x = check_numbers("positions", positions, "a tensor of numbers (checkpoints,)")
    if x.ndim != 1 or not bool(torch.isfinite(x).all()) or len(x.unique()) < len(x):
        raise ValueError(f"`positions` must be different finite numbers (checkpoints,), got {x.tolist()}.")
    degree = check_integer("degree", degree, 0)
    if degree >= len(x):
        raise ValueError(f"`degree` must be below the number of `positions`, {len(x)} checkpoints, got {degree}.")
    x = (x - x.mean()) / (x - x.mean()).abs().max().clamp_min(torch.finfo(x.dtype).tiny)
    basis = x.new_full((len(x), degree + 1), len(x) ** -0.5)
    for power in range(1, degree + 1):
        column, before = x * basis[:, power - 1], basis[:, :power]
        for _ in range(2):  # mutants: twice is enough
            column = column - before @ (before.T @ column)
        basis[:, power] = column / column.norm()
    return basis


def polynomial_coefficients(curves: Tensor, degree: int, positions: Tensor | None = None) -> Tensor:
    r"""Compute the coefficients of the least-squares polynomial of each curve, at a cost of O(n).

    The basis is orthonormal over the checkpoints (:func:`polynomial_basis`). For :func:`.standardised` curves and
    degree T - 1 the squared distance between two coefficient vectors is therefore exactly :math:`2 (1 - r)`; a lower
    degree compares smoothed curves. A curve with missing values (NaN) is fitted to the checkpoints it has; where those
    do not determine the polynomial, the coefficients with the smallest norm are taken. Each pattern of missing
    checkpoints costs one factorization.

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
    curves = check_curves(curves, "curves")
    if positions is None:
        positions = torch.arange(len(curves))
    positions = check_numbers("positions", positions, "a tensor of numbers (checkpoints,)")
    if positions.shape != curves.shape[:1]:
        raise ValueError(
            f"`positions` must have shape {(len(curves),)}, one for each checkpoint of `curves`, got "
            f"{tuple(positions.shape)}."
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
    """Compute the agreement of coefficient distances with pairwise correlations, as in the paper.

    Pearson correlation, over all pairs of items, of the pairwise correlation with minus the Euclidean distance of the
    coefficients. Source: Vivek et al., Benchmark Hill Climbing, figure 8.

    Args:
        coefficients: ``(n, degree + 1)`` of :func:`polynomial_coefficients`.
        r: ``(n, n)`` of :func:`.pearson`; pairs whose correlation is NaN are ignored.

    Returns:
        A number in [-1, 1]; 1 for full agreement; NaN for fewer than two pairs.

    Example:
        >>> from synbench_lightning.functional.benchmark.curve_correlation import standardised
        >>> curves = torch.randn(12, 50, generator=torch.Generator().manual_seed(0))
        >>> agreement(polynomial_coefficients(standardised(curves), degree=11), pearson(curves).r) > 0.98
        True
    """
    coefficients = check_floats("coefficients", coefficients, "(points, coefficients)", (None, None))
    n = len(coefficients)
    r = check_floats("r", r, f"of shape {(n, n)}, a row for each of `coefficients`", (n, n), finite=False)
    row, column = torch.triu_indices(n, n, offset=1)
    distance = torch.nn.functional.pdist(coefficients)
    pairs = torch.stack([-distance, r[row, column]], 1)
    return pearson(pairs[~torch.isnan(pairs).any(1)]).r[0, 1].item() if n > 2 else float("nan")
